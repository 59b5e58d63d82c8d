"""The torch runner over the parity matrix: logits from pages are those of the whole text, however it is cut."""

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from parity_configs import CONFIGS
from small_models import make_model
from torch import Tensor

from camelid.checkpoint.load import load_transformer
from camelid.errors import UserError
from camelid.inference.runners.torch_linear import BlockLinear
from camelid.inference.runners.torch_runner import TorchRunner
from camelid.inference.step import Step
from camelid.model.llama import Transformer

PAGE_SIZE = 4


@pytest.fixture(params=CONFIGS)
def transformer(request: pytest.FixtureRequest) -> Transformer:
    return load_transformer(make_model(CONFIGS[request.param]), dtype=torch.float64)


class Texts:
    """Sequences that are read in pieces of random length, their pages scattered."""

    def __init__(self, runner: TorchRunner, texts: Tensor, rng: random.Random):
        self.runner = runner
        self.texts = texts
        self.rng = rng
        self.logits: list[list[NDArray[np.float32]]] = [[] for _ in texts]
        pages = list(range(runner.num_pages))
        rng.shuffle(pages)
        width = -(-texts.shape[1] // runner.page_size)
        self.tables = np.array(pages[: len(texts) * width], np.int32).reshape(len(texts), width)

    def step(self, longest: int) -> bool:
        """Reads up to `longest` tokens of some texts; false when all are read."""
        num_read = [len(rows) for rows in self.logits]
        behind = [n for n, count in enumerate(num_read) if count < self.texts.shape[1]]
        if not behind:
            return False
        chosen = sorted(self.rng.sample(behind, self.rng.randint(1, len(behind))))
        num_new = [min(self.rng.randint(1, longest), self.texts.shape[1] - num_read[n]) for n in chosen]
        tokens = torch.cat(
            [self.texts[n, num_read[n] : num_read[n] + new] for n, new in zip(chosen, num_new, strict=True)]
        )
        # A table may hold more pages than are used, and ends with -1.
        tables = np.pad(self.tables[chosen], ((0, 0), (0, 1)), constant_values=-1)
        rows = self.runner.run(
            Step(
                tokens=tokens.numpy().astype(np.int32),
                num_new=np.array(num_new, np.int32),
                num_cached=np.array([num_read[n] for n in chosen], np.int32),
                page_tables=tables,
                outputs=np.arange(len(tokens), dtype=np.int32),
            )
        )
        for number, new, part in zip(chosen, num_new, np.split(rows, np.cumsum(num_new)[:-1]), strict=True):
            assert len(part) == new
            self.logits[number].extend(part)
        return True


@pytest.mark.parametrize(("longest", "is_padded"), [(1, False), (1, True), (9, False), (40, False)])
def test_pages_give_the_logits_of_the_whole(transformer: Transformer, longest: int, is_padded: bool) -> None:
    texts = torch.randint(0, transformer.config.vocab_size, (5, 30), generator=torch.Generator().manual_seed(1))
    runner = TorchRunner(transformer, num_pages=50, page_size=PAGE_SIZE, is_padded=is_padded)
    reader = Texts(runner, texts, random.Random(longest))
    while reader.step(longest):
        pass
    with torch.inference_mode():
        expected = transformer(texts).float().numpy()
    np.testing.assert_allclose(np.array(reader.logits), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


def test_only_wanted_places_are_computed() -> None:
    runner = TorchRunner(load_transformer(make_model(CONFIGS["grouped"])), num_pages=9, page_size=PAGE_SIZE)
    step = Step(
        tokens=np.arange(6, dtype=np.int32),
        num_new=np.array([4, 2], np.int32),
        num_cached=np.zeros(2, np.int32),
        page_tables=np.array([[3], [5]], np.int32),
        outputs=np.array([], np.int32),
    )
    assert runner.run(step).shape == (0, 199)
    wanted = Step(step.tokens, step.num_new, step.num_cached, step.page_tables, np.array([1, 5], np.int32))
    every = Step(step.tokens, step.num_new, step.num_cached, step.page_tables, np.arange(6, dtype=np.int32))
    np.testing.assert_allclose(runner.run(wanted), runner.run(every)[[1, 5]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", BlockLinear.ENCODINGS)
@pytest.mark.parametrize("name", ["grouped", "tied", "head_size_48"])
def test_blocks_compute_as_their_numbers_do(encoding: str, name: str) -> None:
    model = make_model(CONFIGS[name], encoding)
    blocks = TorchRunner.load(model, 20, PAGE_SIZE, keeps_blocks=True)
    numbers = TorchRunner.load(model, 20, PAGE_SIZE, keeps_blocks=False)
    assert sum(isinstance(module, BlockLinear) for module in blocks.model.modules()) > 20
    texts = torch.randint(0, 199, (2, 20), generator=torch.Generator().manual_seed(2))
    logits = []
    for runner in (blocks, numbers):
        reader = Texts(runner, texts, random.Random(1))
        while reader.step(7):
            pass
        logits.append(np.array(reader.logits))
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    for path, module in blocks.model.named_modules():
        if isinstance(module, BlockLinear):
            assert torch.equal(module.weight(torch.float32), numbers.model.get_parameter(f"{path}.weight"))


def test_bfloat16_is_near_float32() -> None:
    model = make_model(CONFIGS["grouped"])
    runners = [TorchRunner.load(model, 20, PAGE_SIZE, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    texts = torch.randint(0, 199, (2, 12), generator=torch.Generator().manual_seed(3))
    logits = []
    for runner in runners:
        reader = Texts(runner, texts, random.Random(1))
        while reader.step(12):
            pass
        logits.append(np.array(reader.logits))
    assert 1e-4 < np.abs(logits[0] - logits[1]).max() < 0.1


def test_what_cannot_be_is_refused() -> None:
    model = make_model(CONFIGS["grouped"])
    with pytest.raises(UserError, match=r"small\.gguf cannot be loaded to cuda"):
        TorchRunner.load(model, 20, device="cuda" if not torch.cuda.is_available() else "cuda:99")
    with pytest.raises(UserError, match="a cache of 16,000,000,000,000 positions does not fit in the memory of cpu"):
        TorchRunner.load(model, 10**12)
