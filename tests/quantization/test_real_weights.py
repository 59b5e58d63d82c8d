"""Real weights in four bits: better than rounding at the same size, and read by llama.cpp."""

import gzip
from pathlib import Path

import llama_cpp_oracle
import numpy as np
import pytest
import torch
from command_line import CommandLine

from camelid.checkpoint import gguf
from camelid.checkpoint.find import open_model
from camelid.checkpoint.load import load_transformer
from camelid.checkpoint.stored import StoredModel
from camelid.checkpoint.verify import LogitDifference, compare_logits
from camelid.quantization.quantise import quantise_model
from camelid.quantization.settings import QuantisationSettings


def read_texts(path: Path) -> tuple[str, str]:
    """A text to calibrate with and another one to measure on."""
    text = gzip.decompress(path.read_bytes()).decode().replace("<|endoftext|>", "")
    return text[: len(text) // 2], text[len(text) // 2 :]


def compare_with_rounding(
    source: StoredModel, texts: tuple[str, str], folder: Path, num_tokens: int
) -> list[LogitDifference]:
    """The model beside itself rounded as ggml rounds, with searched scales, and calibrated."""
    tokenizer = source.load_tokenizer()
    seen, unseen = map(tokenizer.encode, texts)
    settings = QuantisationSettings(encoding="q4_0", head_encoding="same", calibration_tokens=8192, window=256)
    paths = [folder / f"{name}.gguf" for name in ("rounded", "searched", "calibrated")]
    gguf.write(source, paths[0], encoding="q4_0")
    quantise_model(source, paths[1], settings, None)
    quantise_model(source, paths[2], settings, seen)
    sizes = [sum(tensor.read().nbytes for tensor in gguf.read(path).tensors.values()) for path in paths]
    assert len(set(sizes)) == 1
    return [compare_logits(source, gguf.read(path), unseen[:num_tokens], tokenizer.bos_id) for path in paths]


@pytest.mark.slow
def test_stories_in_four_bits(shared_data: Path, tmp_path: Path) -> None:
    source = open_model(shared_data / "models" / "stories15M" / "stories15M.bin.gz")
    texts = read_texts(shared_data / "text" / "tinystories_sample.txt.gz")
    rounded, searched, calibrated = compare_with_rounding(source, texts, tmp_path, 16_384)
    original = rounded.perplexities[0]
    assert original < calibrated.perplexities[1] < searched.perplexities[1] < rounded.perplexities[1]
    assert calibrated.perplexities[1] - original < 0.75 * (rounded.perplexities[1] - original)
    assert calibrated.kl_nats < 0.8 * rounded.kl_nats
    assert searched.kl_nats < 0.95 * rounded.kl_nats


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q8_0"])
def test_command_writes_what_llama_cpp_reads(
    camelid: CommandLine, shared_data: Path, tmp_path: Path, encoding: str
) -> None:
    source = shared_data / "models" / "stories15M" / "stories15M.bin.gz"
    seen, _ = read_texts(shared_data / "text" / "tinystories_sample.txt.gz")
    (tmp_path / "seen.txt").write_text(seen[:40_000], encoding="utf-8")
    target = tmp_path / "small.gguf"
    outcome = camelid("quantize", source, "--to", encoding, "-o", target, "--calibration", tmp_path / "seen.txt")
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(target)
    model = open_model(target)
    prompt = model.load_tokenizer().encode("Once upon a time, a llama", bos=True)
    ((tokens, theirs),) = llama_cpp_oracle.evaluate(target, [prompt], 40, tmp_path)
    with torch.inference_mode():
        ours = load_transformer(model)(torch.from_numpy(tokens)[None])[0].log_softmax(-1).numpy()
    found = theirs - np.log(np.exp(theirs.astype(np.float64)).sum(-1, keepdims=True))
    divergence = (np.exp(ours) * (ours - found)).sum(-1)
    assert divergence.mean() < 0.01
