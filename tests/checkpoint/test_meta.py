"""Meta folders: params.json of every generation, shards that do not fit together, tied heads, tokenizers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import write_huggingface

from camelid.checkpoint import hf_safetensors, meta_pth, native
from camelid.checkpoint.bounded import Fields
from camelid.checkpoint.meta_params import ffn_hidden_dim_of, from_meta_params, to_meta_params
from camelid.errors import UserError
from camelid.model.config import ModelConfig

# As published, with the widths that the weights have.
PARAMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LLaMA 7B": (
        {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1},
        {"vocab_size": 32000, "ffn_hidden_dim": 11008, "max_sequence_length": 2048},
    ),
    "Llama 2 70B": (
        {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80,
         "norm_eps": 1e-05, "vocab_size": -1},
        {"vocab_size": 32000, "ffn_hidden_dim": 28672, "max_sequence_length": 4096},
    ),
    "Code Llama 34B": (
        {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 1.0,
         "norm_eps": 1e-5, "rope_theta": 1000000},
        {"vocab_size": 32000, "ffn_hidden_dim": 22016, "max_sequence_length": 16384},
    ),
    "Llama 3 8B": (
        {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
         "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0},
        {"vocab_size": 128256, "ffn_hidden_dim": 14336, "max_sequence_length": 8192},
    ),
    "Llama 3.1 405B": (
        {"dim": 16384, "ffn_dim_multiplier": 1.2, "multiple_of": 4096, "n_heads": 128, "n_kv_heads": 8, "n_layers": 126,
         "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256},
        {"vocab_size": 128256, "ffn_hidden_dim": 53248, "max_sequence_length": 131072, "factor": 8.0},
    ),
    "Llama 3.2 1B": (
        {"dim": 2048, "ffn_dim_multiplier": 1.5, "multiple_of": 256, "n_heads": 32, "n_kv_heads": 8, "n_layers": 16,
         "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256},
        {"vocab_size": 128256, "ffn_hidden_dim": 8192, "max_sequence_length": 131072, "factor": 32.0},
    ),
}  # fmt: skip


def read_params(tree: dict[str, Any], vocab_size: int, ffn_hidden_dim: int, is_head_tied: bool = False) -> ModelConfig:
    return from_meta_params(
        Fields(tree, "x/params.json"), vocab_size=vocab_size, ffn_hidden_dim=ffn_hidden_dim, is_head_tied=is_head_tied
    )


@pytest.mark.parametrize("name", PARAMS)
def test_published_params(name: str) -> None:
    tree, expected = PARAMS[name]
    config = read_params(tree, expected["vocab_size"], expected["ffn_hidden_dim"], name == "Llama 3.2 1B")
    assert (config.dim, config.num_layers, config.num_heads) == (tree["dim"], tree["n_layers"], tree["n_heads"])
    assert config.num_kv_heads == tree.get("n_kv_heads", tree["n_heads"])
    assert config.max_sequence_length == expected["max_sequence_length"]
    assert (config.rope_scaling.factor if config.rope_scaling else None) == expected.get("factor")
    written = to_meta_params(config, "x")
    assert read_params(written, config.vocab_size, config.ffn_hidden_dim, config.is_head_tied) == config
    # Nothing that the program of the generation would not know: its dataclass refuses unknown keys.
    assert written.keys() <= tree.keys() | {"ffn_dim_multiplier", "vocab_size"}


@pytest.mark.parametrize("dim", [96, 576, 2048, 4096, 8190])
@pytest.mark.parametrize("ffn_hidden_dim", [1, 97, 1536, 5632, 11008, 14336, 22015, 53248])
def test_any_feed_forward_width_can_be_said(dim: int, ffn_hidden_dim: int) -> None:
    num_heads = 3 if dim % 3 == 0 else 2
    config = ModelConfig(
        dim=dim, num_layers=1, num_heads=num_heads, num_kv_heads=1, ffn_hidden_dim=ffn_hidden_dim, vocab_size=8
    )
    written = to_meta_params(config, "x")
    # Meta's own lines, in its order.
    hidden = int(2 * (4 * dim) / 3)
    if (multiplier := written.get("ffn_dim_multiplier")) is not None:
        hidden = int(multiplier * hidden)
    multiple = written["multiple_of"]
    assert multiple * ((hidden + multiple - 1) // multiple) == ffn_hidden_dim
    assert ffn_hidden_dim_of(dim, multiple, multiplier) == ffn_hidden_dim


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"multiple_of": 1024}, "give a feed-forward width of 11,264, and the weights have 11,008"),
    "vocabulary": ({"vocab_size": 32001}, "vocab_size is 32,001, and the weights have 32,000 rows"),
    "quantised": ({"quantization_args": {"scheme": "int4"}}, "quantised"),
    "no size": ({"dim": None}, "dim is missing"),
    "text": ({"n_heads": "32"}, "n_heads must be a whole number above 0, not '32'"),
    "odd heads": ({"n_heads": 31}, "dim 4096 does not divide into 31 heads"),
    "multiplier": ({"ffn_dim_multiplier": -1.0}, "ffn_dim_multiplier must be a number above 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_params_are_refused(name: str) -> None:
    changes, reason = REFUSED[name]
    with pytest.raises(UserError, match=rf"x/params\.json.*{reason}"):
        read_params({**PARAMS["LLaMA 7B"][0], **changes}, 32000, 11008)


def test_scaling_that_the_format_cannot_say() -> None:
    tree, expected = PARAMS["Llama 3.1 405B"]
    config = read_params(tree, expected["vocab_size"], expected["ffn_hidden_dim"])
    assert config.rope_scaling is not None
    other = config.model_copy(update={"rope_scaling": config.rope_scaling.model_copy(update={"factor": 4.0})})
    with pytest.raises(UserError, match=r"stretched by 4 \(1 to 4 of 8,192\), and Meta's format knows only 8 \(1 to 4"):
        to_meta_params(other, "x")
    tied = config.model_copy(update={"is_head_tied": True})
    with pytest.raises(UserError, match=r"stretched by 8 .* only 32 .* for a tied head"):
        to_meta_params(tied, "x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny Llama 2 in two shards."""
    return write_meta("llama-2", tmp_path, 2)


def write_meta(name: str, tmp_path: Path, num_shards: int) -> Path:
    model = hf_safetensors.read(write_huggingface(name, tmp_path / f"{name}-hf"))
    meta_pth.write(model, tmp_path / name, num_shards)
    return tmp_path / name


def change_shard(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = torch.load(path, weights_only=True)
    change(tensors)
    torch.save(tensors, path)


def test_missing_shards(folder: Path) -> None:
    shutil.move(folder / "consolidated.01.pth", folder / "consolidated.02.pth")
    with pytest.raises(UserError, match=r"consolidated\.01\.pth is missing, though consolidated\.02\.pth is there"):
        meta_pth.read(folder)
    (folder / "consolidated.02.pth").unlink()
    with pytest.raises(UserError, match=r"tensor .* has shape .*, but the configuration wants|and the weights have"):
        meta_pth.read(folder)
    (folder / "consolidated.00.pth").unlink()
    with pytest.raises(UserError, match=r"holds no consolidated\.00\.pth"):
        meta_pth.read(folder)


def test_extra_shard(folder: Path) -> None:
    shutil.copy(folder / "consolidated.01.pth", folder / "consolidated.02.pth")
    with pytest.raises(UserError, match=r"and the weights have|has shape .*, but the configuration wants"):
        meta_pth.read(folder)


def test_shards_that_differ(folder: Path) -> None:
    path = folder / "consolidated.01.pth"
    kept = path.read_bytes()
    name = "layers.1.attention.wo.weight"
    cases: tuple[tuple[Callable[[dict[str, torch.Tensor]], Any], str], ...] = (
        (lambda t: t.pop(name), rf"01\.pth: tensor '{name}' is not in every shard"),
        (lambda t: t.update(extra=torch.ones(1)), "tensor 'extra' is not in every shard"),
        (lambda t: t.update({name: t[name][:, :-1]}), rf"'{name}' is 128 x 63 of bf16, and 128 x 64 of bf16 in cons"),
        (lambda t: t.update({name: t[name].half()}), rf"'{name}' is 128 x 64 of f16, and 128 x 64 of bf16 in cons"),
    )
    for change, reason in cases:
        path.write_bytes(kept)
        change_shard(path, change)
        with pytest.raises(UserError, match=reason):
            meta_pth.read(folder)


def test_norms_that_differ(folder: Path) -> None:
    change_shard(folder / "consolidated.01.pth", lambda t: t["norm.weight"].add_(1))
    model = meta_pth.read(folder)
    model.tensors["layers.0.ffn_norm.weight"].read()
    with pytest.raises(UserError, match=r"01\.pth: tensor norm\.weight differs from consolidated\.00\.pth's"):
        model.tensors["norm.weight"].read()


def test_tensors_of_another_model(tmp_path: Path) -> None:
    folder = write_meta("llama-1", tmp_path, 1)
    change_shard(folder / "consolidated.00.pth", lambda t: t.update({"layers.0.attention.wq.bias": torch.ones(128)}))
    with pytest.raises(UserError, match=r"tensor layers\.0\.attention\.wq\.bias has no place"):
        meta_pth.read(folder)


@pytest.mark.parametrize(("name", "num_shards"), [("smollm2", 1), ("llama-3.2", 1), ("llama-3.2", 4)])
def test_tied_head_is_told_by_its_bytes(name: str, num_shards: int, tmp_path: Path) -> None:
    folder = write_meta(name, tmp_path, num_shards)
    files = sorted(folder.glob("*.pth"))
    assert all("output.weight" in torch.load(file, weights_only=True) for file in files)
    tied = meta_pth.read(folder)
    assert tied.config.is_head_tied
    assert "output.weight" not in tied.tensors
    for file in files:
        change_shard(file, lambda t: t.pop("output.weight"))
    without = meta_pth.read(folder)
    assert without.config.is_head_tied
    assert without.tensors.keys() == tied.tensors.keys()


def test_head_of_its_own(tmp_path: Path) -> None:
    folder = write_meta("llama-3.2", tmp_path, 2)
    change_shard(folder / "consolidated.01.pth", lambda t: t["output.weight"][-1, -1].add_(1))
    model = meta_pth.read(folder)
    assert not model.config.is_head_tied
    assert model.config.rope_scaling is not None
    assert model.config.rope_scaling.factor == 8.0


def test_rotary_tables_are_passed_over(folder: Path) -> None:
    for file in folder.glob("*.pth"):
        change_shard(file, lambda t: t.update({"rope.freqs": torch.ones(8)}))
    assert len(meta_pth.read(folder).tensors) == 21


def test_context_length_is_published_or_noted(folder: Path) -> None:
    config = meta_pth.read(folder).config
    assert config.max_sequence_length == 4096
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["facts"]["config"]["max_sequence_length"] = 77
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert meta_pth.read(folder).config.max_sequence_length == 77
    for broken in (
        "{",
        '{"kind": "model"}',
        json.dumps({**manifest, "facts": {"config": {"max_sequence_length": "x"}}}),
    ):
        (folder / "manifest.json").write_text(broken, encoding="utf-8")
        assert meta_pth.read(folder).config.max_sequence_length == 4096


def test_tokenizer_one_folder_above(folder: Path, shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tokenizer"):
        meta_pth.read(folder).load_tokenizer()
    shutil.copy(shared_data / "models" / "llama-tokenizer" / "tokenizer.model", folder.parent / "tokenizer.model")
    (folder.parent / "LICENSE").write_text("of all sizes", encoding="utf-8")
    model = meta_pth.read(folder)
    assert model.load_tokenizer().vocab_size == 32000
    native.write(model, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").is_file()
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "of all sizes"


def test_licence_of_what_lies_around_is_not_the_models(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "LICENSE").write_text("of a program", encoding="utf-8")
    native.write(meta_pth.read(folder), tmp_path / "out")
    assert not (tmp_path / "out" / "LICENSE").exists()


def test_params_that_are_missing_or_damaged(folder: Path) -> None:
    (folder / "params.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.json is damaged"):
        meta_pth.read(folder)
    (folder / "params.json").unlink()
    with pytest.raises(UserError, match=r"params\.json is missing"):
        meta_pth.read(folder)


@pytest.mark.parametrize("num_shards", [0, 3, 100])
def test_impossible_numbers_of_shards(num_shards: int, tmp_path: Path) -> None:
    model = hf_safetensors.read(write_huggingface("llama-1", tmp_path / "hf"))
    with pytest.raises(UserError, match=r"8 query heads do not divide by 3 shards|choose 1 to 99"):
        meta_pth.write(model, tmp_path / "meta", num_shards)
    assert not (tmp_path / "meta").exists()
