"""Two models are compared, and one is checked: what was changed is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from camelid.checkpoint.convert import convert
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel
from camelid.checkpoint.verify import check, compare_logits, compare_tensors
from camelid.errors import UserError

NAME = "layers.1.feed_forward.w2.weight"


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> StoredModel:
    return open_model(tiny_run)


def change(model: StoredModel, value: float) -> StoredModel:
    """The model with another value in one place of one tensor."""

    def read() -> NDArray[np.uint8]:
        values = model.tensors[NAME].read().view(np.float32).copy()
        values[5] = value
        return values.view(np.uint8)

    return replace(model, tensors={**model.tensors, NAME: replace(model.tensors[NAME], read=read)})


def test_a_model_equals_itself(model: StoredModel) -> None:
    assert all(difference.is_identical for difference in compare_tensors(model, model))
    logits = compare_logits(model, model, range(3, 90))
    assert (logits.max_difference, logits.kl_nats, logits.agreement) == (0, 0, 1)


def test_the_tensor_that_differs_is_named(model: StoredModel) -> None:
    other = change(model, 3.0)
    before = float(model.tensors[NAME].read().view(np.float32)[5])
    differing = [difference for difference in compare_tensors(model, other) if not difference.is_identical]
    assert [difference.name for difference in differing] == [NAME]
    assert differing[0].max_difference == pytest.approx(abs(3.0 - before))
    logits = compare_logits(model, other, range(3, 90))
    assert logits.kl_nats > 0
    assert logits.max_difference > 0


def test_perplexity_is_that_of_torch(model: StoredModel) -> None:
    tokens = list(range(3, 30))
    logits = load_transformer(model)(torch.tensor([tokens]))[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]))
    assert compare_logits(model, model, tokens).perplexities[0] == pytest.approx(loss.exp().item(), rel=1e-5)
    # The same tokens, of which the first begins the only window.
    found = compare_logits(model, model, tokens[1:], bos_id=tokens[0])
    assert found.perplexities[0] == pytest.approx(loss.exp().item(), rel=1e-5)
    assert (found.num_tokens, found.agreement) == (26, 1)


def test_values_that_are_not_finite_are_refused(model: StoredModel) -> None:
    assert check(model) == len(model.tensors)
    for value in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"{NAME}: the value 5 \(f32\) is a NaN or an infinity"):
            check(change(model, value))


def test_a_flipped_bit_of_a_product_is_found(model: StoredModel, tmp_path: Path) -> None:
    convert(model, tmp_path / "copy", "native")
    path = tmp_path / "copy" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors has SHA-256"):
        check(open_model(tmp_path / "copy"))


def test_models_of_other_shapes_are_refused(model: StoredModel) -> None:
    smaller = {name: tensor for name, tensor in model.tensors.items() if name != NAME}
    with pytest.raises(UserError, match=rf"{NAME} is 32 x 64 in .* and not there in"):
        list(compare_tensors(model, replace(model, tensors=smaller)))
    with pytest.raises(UserError, match="has 1 tokens"):
        compare_logits(model, model, [5])
    with pytest.raises(UserError, match="token 9,999 of the text is not in the vocabulary"):
        compare_logits(model, model, [5, 9999])
