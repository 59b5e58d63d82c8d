"""Hugging Face folders: both generations of config.json, shards and index, tied heads, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import write_huggingface

from camelid.checkpoint import hf_safetensors
from camelid.checkpoint.hf_config import from_huggingface_config, to_huggingface_config
from camelid.errors import UserError
from camelid.model.config import ModelConfig, RopeScaling

# As published for Llama 3.1 8B (transformers 4), SmolLM2-135M (4) and in the form of transformers 5.
LLAMA_3_1 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
EXPECTED = ModelConfig(
    dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    ffn_hidden_dim=14336,
    vocab_size=128256,
    max_sequence_length=131072,
    norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_sequence_length=8192
    ),
)


def in_new_form(tree: dict[str, Any]) -> dict[str, Any]:
    """As transformers 5 writes it."""
    changed = {name: value for name, value in tree.items() if name not in ("rope_theta", "rope_scaling", "torch_dtype")}
    return {
        **changed,
        "dtype": "bfloat16",
        "head_dim": 128,
        "rope_parameters": {**tree["rope_scaling"], "rope_theta": tree["rope_theta"]},
    }


@pytest.mark.parametrize("tree", [LLAMA_3_1, in_new_form(LLAMA_3_1)], ids=["transformers 4", "transformers 5"])
def test_both_forms_of_the_configuration(tree: dict[str, Any]) -> None:
    assert from_huggingface_config(tree, "config.json") == EXPECTED
    written = to_huggingface_config(EXPECTED, "bf16", {})
    assert from_huggingface_config(written, "config.json") == EXPECTED
    assert {name: value for name, value in written.items() if name in LLAMA_3_1} == {
        name: LLAMA_3_1[name] for name in written if name in LLAMA_3_1
    } | {"bos_token_id": None, "eos_token_id": None}


def test_what_old_files_leave_out() -> None:
    """LLaMA 1 as converted in 2023."""
    tree = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "vocab_size": 32000,
    }
    config = from_huggingface_config(tree, "config.json")
    assert (config.num_kv_heads, config.rope_theta, config.max_sequence_length) == (32, 10000.0, 2048)
    assert config.rope_scaling is None
    assert not config.is_head_tied


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mistral": ({"model_type": "mistral"}, "of type 'mistral', and Camelid runs those of type 'llama'"),
    "qwen": ({"model_type": "qwen2"}, "of type 'qwen2'"),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "is 'LlamaForSequenceClassification'"),
    "architectures": ({"architectures": "LlamaForCausalLM"}, "its architecture is"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, "quantised by method 'gptq'"),
    "attention bias": ({"attention_bias": True}, "attention_bias is true"),
    "feed-forward bias": ({"mlp_bias": True}, "mlp_bias is true"),
    "pairs": ({"rope_interleaved": True}, "rope_interleaved is true"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "wide heads": ({"head_dim": 256}, "head_dim is 256, and hidden_size 4096 / num_attention_heads 32 gives 128"),
    "linear rope": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rotary scaling of type 'linear'"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
    "no factor": ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: factor is missing"),
    "two bases": ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_scaling": None},
                  "rope_theta is given twice, as 10000 and 500000"),
    "two scalings": ({"rope_parameters": {"rope_type": "default"}}, "contradict each other"),
    "part of a head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
    "uneven heads": ({"num_key_value_heads": 5}, "32 query heads do not divide into 5"),
    "no size": ({"hidden_size": None}, "hidden_size is missing"),
    "text": ({"hidden_size": "4096"}, "hidden_size must be a whole number above 0, not '4096'"),
    "truth": ({"vocab_size": True}, "vocab_size must be a whole number above 0, not True"),
    "zero": ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0, not 0"),
    "fraction": ({"hidden_size": 4096.5}, "hidden_size must be a whole number"),
    "infinite": ({"rope_theta": float("inf")}, "rope_theta must be a number above 0, not inf"),
    "beyond floats": ({"rope_theta": 10**400}, "rope_theta must be a number above 0"),
    "no truth": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
    "no table": ({"rope_scaling": 8}, "rope_scaling must be a table, not 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_configurations_are_refused(name: str) -> None:
    changes, reason = REFUSED[name]
    with pytest.raises(UserError, match=rf"x/config\.json.*{reason}"):
        from_huggingface_config({**LLAMA_3_1, **changes}, "x/config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_huggingface("llama-2", tmp_path / "hf", max_shard_size="100KB")


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return write_huggingface("llama-2", tmp_path / "single")


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return write_huggingface("smollm2", tmp_path / "tied")


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_shards_are_one_model(folder: Path, single: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 3
    sharded, whole = hf_safetensors.read(folder), hf_safetensors.read(single)
    assert sharded.config == whole.config
    assert {n: t.read().tobytes() for n, t in sharded.tensors.items()} == {
        n: t.read().tobytes() for n, t in whole.tensors.items()
    }


def test_missing_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing, though model\.safetensors\.index\.json names it"):
        hf_safetensors.read(folder)


def test_shard_of_another_save(folder: Path) -> None:
    shutil.copy(sorted(folder.glob("*.safetensors"))[0], folder / "model-00001-of-00099.safetensors")
    with pytest.raises(UserError, match=r"model-00001-of-00099\.safetensors is not named in"):
        hf_safetensors.read(folder)


def test_whole_file_beside_an_index(folder: Path, single: Path) -> None:
    shutil.copy(single / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is not named in"):
        hf_safetensors.read(folder)


def test_missing_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json is missing, and the weights are in several files"):
        hf_safetensors.read(folder)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("../model-00001-of-00002.safetensors", "no safetensors file"),
        ("/etc/passwd", "no safetensors file"),
        ("pytorch_model.bin", "no safetensors file"),
        (3, "no safetensors file"),
        ("absent.safetensors", "absent.safetensors is missing, though"),
    ],
)
def test_index_that_leads_elsewhere(folder: Path, file: Any, reason: str) -> None:
    change_json(
        folder / "model.safetensors.index.json", lambda tree: tree["weight_map"].update({"lm_head.weight": file})
    )
    with pytest.raises(UserError, match=reason):
        hf_safetensors.read(folder)


def test_index_that_speaks_of_other_tensors(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    kept = index.read_text(encoding="utf-8")
    file = json.loads(kept)["weight_map"]["lm_head.weight"]
    change_json(index, lambda tree: tree["weight_map"].update({"other": file}))
    with pytest.raises(UserError, match=rf"{file}: tensor 'other' is not in it"):
        hf_safetensors.read(folder)
    index.write_text(kept, encoding="utf-8")
    change_json(index, lambda tree: tree["weight_map"].pop("model.norm.weight"))
    with pytest.raises(UserError, match=r"tensor 'model\.norm\.weight' is in it and not in"):
        hf_safetensors.read(folder)
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="weight_map is missing"):
        hf_safetensors.read(folder)


def test_tensors_that_do_not_fit(single: Path) -> None:
    path = single / "model.safetensors"
    kept = path.read_bytes()
    name = "model.layers.1.mlp.up_proj.weight"
    for change, reason in (
        (lambda t: t.pop(name), r"tensor layers\.1\.feed_forward\.w3\.weight \(352 x 128\) is missing"),
        (lambda t: t.update({name: t[name][:-1]}), r"has shape 351 x 128, but the configuration wants 352 x 128"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": t["model.norm.weight"].clone()}), "q_proj.bias"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[name].clone()}), r"layers\.2\..* has no place"),
        (lambda t: t.update({name: t[name].double()}), "of type 'F64'"),
    ):
        path.write_bytes(kept)
        change_tensors(path, change)
        with pytest.raises(UserError, match=reason):
            hf_safetensors.read(single)


def test_absurd_number_of_layers(single: Path) -> None:
    change_json(single / "config.json", lambda tree: tree.update(num_hidden_layers=10**12))
    with pytest.raises(UserError, match=r"speaks of 1,000,000,000,000 layers, and the files hold 21 tensors"):
        hf_safetensors.read(single)


def test_rotary_tables_of_old_conversions_are_passed_over(single: Path) -> None:
    change_tensors(
        single / "model.safetensors",
        lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    )
    assert len(hf_safetensors.read(single).tensors) == 21


def test_tied_head_stored_once_or_twice(tied: Path) -> None:
    path = tied / "model.safetensors"
    assert "lm_head.weight" not in load_file(path)
    once = hf_safetensors.read(tied)
    assert once.config.is_head_tied
    assert "output.weight" not in once.tensors
    change_tensors(path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert hf_safetensors.read(tied).tensors.keys() == once.tensors.keys()
    change_tensors(path, lambda t: t["lm_head.weight"][7, 5].add_(1))
    with pytest.raises(UserError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        hf_safetensors.read(tied)
    change_json(tied / "config.json", lambda tree: tree.update(tie_word_embeddings=False))
    assert "output.weight" in hf_safetensors.read(tied).tensors


def test_head_that_is_neither_tied_nor_there(tied: Path) -> None:
    change_json(tied / "config.json", lambda tree: tree.update(tie_word_embeddings=False))
    with pytest.raises(UserError, match=r"output\.weight \(320 x 144\) is missing"):
        hf_safetensors.read(tied)


def test_pickled_weights_are_refused_with_the_way_out(single: Path) -> None:
    torch.save(load_file(single / "model.safetensors"), single / "pytorch_model.bin")
    (single / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickles .*can run code.*save_pretrained\(new_folder\)"):
        hf_safetensors.read(single)
    (single / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        hf_safetensors.read(single)


def test_a_folder_is_told_by_its_configuration(single: Path, tmp_path: Path) -> None:
    assert hf_safetensors.is_model(single)
    assert not hf_safetensors.is_model(tmp_path)
    (tmp_path / "config.json").write_text('{"dim": 3}', encoding="utf-8")
    assert not hf_safetensors.is_model(tmp_path)


def test_licence_comes_from_the_model_card(single: Path) -> None:
    assert "license" not in hf_safetensors.read(single).metadata
    (single / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", encoding="utf-8")
    assert hf_safetensors.read(single).metadata["license"] == "apache-2.0"
    (single / "README.md").write_text("# A model\nlicense: mine\n", encoding="utf-8")
    assert "license" not in hf_safetensors.read(single).metadata
