"""GGUF models as read by Camelid, against the `gguf` package's reader and the arrays that it wrote."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, quants
from gguf_files import CONFIG, Array, general_metadata, random_weights, smollm2_path, write_gguf

from camelid.checkpoint import gguf
from camelid.checkpoint.gguf_header import ENCODING_TYPES
from camelid.checkpoint.names import from_gguf, gguf_name
from camelid.encoding import decode
from camelid.errors import UserError
from camelid.model.config import ModelConfig, RopeScaling
from camelid.planning.shapes import parameter_shapes


def to_halves(rows: Array, num_heads: int) -> Array:
    """Rows from GGUF's order into Camelid's, row by row."""
    head_dim = len(rows) // num_heads
    found = np.empty_like(rows)
    for row in range(len(rows)):
        head, channel = divmod(row, head_dim)
        found[head * head_dim + channel // 2 + channel % 2 * (head_dim // 2)] = rows[row]
    return found


def ordered_as_ours(name: str, array: Array, config: ModelConfig) -> Array:
    heads = {"attn_q.weight": config.num_heads, "attn_k.weight": config.num_kv_heads}.get(name.split(".", 2)[-1])
    return to_halves(array, heads) if heads else array


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
@pytest.mark.parametrize("is_head_tied", [False, True])
def test_a_model_is_read_as_it_was_written(tmp_path: Path, kind: str, is_head_tied: bool) -> None:
    config = CONFIG.model_copy(update={"is_head_tied": is_head_tied})
    weights = random_weights(config)
    path = write_gguf(tmp_path / "model.gguf", weights, general_metadata(config), kind)
    model = gguf.read(path)
    assert model.config == config
    assert (model.format, model.path) == ("gguf", path)
    assert {name: tensor.shape for name, tensor in model.tensors.items()} == parameter_shapes(config)
    assert [gguf_name(name) for name in model.tensors] == list(weights)
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for name, tensor in model.tensors.items():
        stored = tensors[gguf_name(name)]
        assert tensor.encoding.name == stored.tensor_type.name.lower()
        wanted = ordered_as_ours(stored.name, quants.dequantize(stored.data, stored.tensor_type), config)
        assert np.array_equal(decode(tensor.read(), tensor.encoding, tensor.shape), wanted)


def test_layers_of_the_names_are_right() -> None:
    assert ordered_as_ours("blk.10.attn_k.weight", np.arange(8), CONFIG).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert ordered_as_ours("blk.1.attn_v.weight", np.arange(8), CONFIG).tolist() == list(range(8))


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_weights(CONFIG), general_metadata(CONFIG))
    described = gguf.read(path).metadata
    assert (described["name"], described["license"], described["languages"]) == ("Tiny", "apache-2.0", ["en", "cy"])
    assert described["quantization"] == "f32"
    metadata = {key: value for key, value in general_metadata(CONFIG).items() if key != "general.file_type"}
    path = write_gguf(tmp_path / "quantised.gguf", random_weights(CONFIG), metadata, "q8_0")
    assert gguf.read(path).metadata["quantization"] == "mostly q8_0"


def test_keys_that_need_not_be_there(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"num_kv_heads": CONFIG.num_heads})
    metadata = general_metadata(config)
    for key in ("attention.head_count_kv", "rope.freq_base", "vocab_size"):
        del metadata[f"llama.{key}"]
    assert gguf.read(write_gguf(tmp_path / "model.gguf", random_weights(config), metadata)).config == config


def test_numbers_given_for_each_layer(tmp_path: Path) -> None:
    metadata = general_metadata(CONFIG)
    metadata["llama.attention.head_count_kv"] = np.array([2, 2], np.int32)
    assert gguf.read(write_gguf(tmp_path / "model.gguf", random_weights(CONFIG), metadata)).config == CONFIG


def test_rope_factors_become_parameters(tmp_path: Path) -> None:
    scaling = RopeScaling(factor=8.0, original_max_sequence_length=32)
    config = CONFIG.model_copy(update={"rope_scaling": scaling})
    turns = 32 * 10000.0 ** -(np.arange(8) / 8) / (2 * np.pi)
    kept = np.clip((turns - 1) / 3, 0, 1)
    weights = {**random_weights(CONFIG), "rope_freqs.weight": np.asarray(1 / (kept + (1 - kept) / 8), np.float32)}
    metadata = {**general_metadata(CONFIG), "llama.rope.scaling.original_context_length": 32}
    assert gguf.read(write_gguf(tmp_path / "llama3.gguf", weights, metadata)).config == config
    weights["rope_freqs.weight"] = np.ones(8, np.float32)
    assert gguf.read(write_gguf(tmp_path / "ones.gguf", weights, metadata)).config == CONFIG
    weights["rope_freqs.weight"] = np.linspace(1, 8, 8, dtype=np.float32)
    with pytest.raises(UserError, match="in another way than Llama 3"):
        gguf.read(write_gguf(tmp_path / "other.gguf", weights, metadata))
    weights["rope_freqs.weight"] = np.ones(7, np.float32)
    with pytest.raises(UserError, match="7 rope factors for heads of 16"):
        gguf.read(write_gguf(tmp_path / "few.gguf", weights, metadata))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, r"sets 'llama.rope.scaling.type' to 'yarn'"),
        ({"llama.rope.scaling.factor": 2.0}, r"sets 'llama.rope.scaling.factor' to 2.0"),
        ({"llama.expert_count": 8}, "sets 'llama.expert_count' to 8"),
        ({"llama.attention.magic": 1}, "sets 'llama.attention.magic' to 1"),
        ({"llama.expert_count": np.array([0, 0], np.int32)}, "sets 'llama.expert_count' to a ndarray"),
        ({"llama.rope.dimension_count": 8}, r"wants llama.rope.dimension_count = 8.* = 16 only"),
        ({"llama.attention.key_length": 32}, r"wants llama.attention.key_length = 32"),
        ({"llama.attention.head_count": np.array([4, 2], np.int32)}, "differs from layer to layer"),
        ({"llama.attention.head_count": 0}, "num_heads must be greater than 0"),
        ({"llama.attention.head_count": 7}, "does not divide into 7 heads"),
        ({"llama.attention.head_count": "four"}, r"llama.attention.head_count is no whole number"),
        ({"llama.attention.head_count": True}, r"llama.attention.head_count is no whole number"),
        ({"llama.rope.freq_base": 10000}, r"llama.rope.freq_base is no finite number"),
        ({"llama.rope.freq_base": float("nan")}, r"llama.rope.freq_base is no finite number"),
        ({"llama.rope.freq_base": float("inf")}, r"llama.rope.freq_base is no finite number"),
        ({"llama.context_length": None}, "does not say llama.context_length"),
        ({"llama.block_count": 3}, "speaks of 3 layers, and the files hold 21 tensors"),
        ({"llama.block_count": 0xFFFFFFFF}, "speaks of 4,294,967,295 layers"),
        ({"llama.block_count": 1}, r"tensor layers.1.\S+ has no place in the model"),
        ({"llama.vocab_size": 41}, "tensor tok_embeddings.weight has shape 40 x 64.* wants 41 x 64"),
        ({"llama.feed_forward_length": 0xFFFFFFFF}, r"feed_forward.w1.weight has shape 96 x 64.* 4294967295 x 64"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    metadata = {key: value for key, value in {**general_metadata(CONFIG), **changes}.items() if value is not None}
    path = write_gguf(tmp_path / "model.gguf", random_weights(CONFIG), metadata)
    with pytest.raises(UserError, match=message) as caught:
        gguf.read(path)
    assert str(path) in str(caught.value)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", random_weights(CONFIG), general_metadata(CONFIG), architecture="qwen2")
    with pytest.raises(UserError, match="a model of the architecture 'qwen2'"):
        gguf.read(path)


def test_tensors_that_are_missing_or_too_many_are_refused(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    bias = {**weights, "blk.0.attn_q.bias": np.ones(64, np.float32)}
    with pytest.raises(UserError, match=r"tensor 'blk.0.attn_q.bias' has no place in a LLaMA model"):
        gguf.read(write_gguf(tmp_path / "bias.gguf", bias, general_metadata(CONFIG)))
    lacking = {name: weight for name, weight in weights.items() if name != "blk.1.ffn_up.weight"}
    with pytest.raises(UserError, match=r"tensor layers.1.feed_forward.w3.weight \(96 x 64\) is missing"):
        gguf.read(write_gguf(tmp_path / "lacking.gguf", lacking, general_metadata(CONFIG)))


def test_a_vocabulary_alone_is_no_model(shared_data: Path) -> None:
    path = shared_data / "models" / "llama-tokenizer" / "ggml-vocab-llama-spm.gguf"
    with pytest.raises(UserError, match=r"holds no token_embd.weight"):
        gguf.read(path)
    assert len(gguf.read_metadata(path)["tokenizer.ggml.tokens"]) == 32000


def test_a_model_in_parts_is_read_from_any_of_them(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    whole = gguf.read(write_gguf(tmp_path / "whole.gguf", weights, general_metadata(CONFIG), "f16"))
    write_gguf(tmp_path / "part.gguf", weights, general_metadata(CONFIG), "f16", split=8)
    parts = sorted(tmp_path.glob("part-*.gguf"))
    assert [path.name for path in parts] == [f"part-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for path in parts:
        model = gguf.read(path)
        assert model.config == whole.config
        assert list(model.tensors) == list(whole.tensors)
        for name, tensor in whole.tensors.items():
            assert np.array_equal(model.tensors[name].read(), tensor.read())

    parts[2].rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(UserError, match=r"part-00003-of-00003.gguf is missing"):
        gguf.read(parts[0])
    (tmp_path / parts[2].name).write_bytes(parts[1].read_bytes())
    with pytest.raises(UserError, match="is not part 3 of 3"):
        gguf.read(parts[0])
    parts[0].rename(tmp_path / "first.gguf")
    with pytest.raises(UserError, match=r"first.gguf is one of 3 parts"):
        gguf.read(tmp_path / "first.gguf")


def test_a_broken_vocabulary_names_the_file(tmp_path: Path) -> None:
    metadata = {key: value for key, value in general_metadata(CONFIG).items() if not key.startswith("tokenizer.")}
    path = write_gguf(tmp_path / "model.gguf", random_weights(CONFIG), metadata)
    with pytest.raises(UserError, match=f"^{path}: "):
        gguf.read(path).load_tokenizer()


def test_smollm2_is_opened_at_once_and_without_torch() -> None:
    path = smollm2_path()
    seconds = []
    for _ in range(3):
        start = time.process_time()
        model = gguf.read(path)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3
    assert model.config == ModelConfig(
        dim=576, num_layers=30, num_heads=9, num_kv_heads=3, ffn_hidden_dim=1536, vocab_size=49152,
        max_sequence_length=8192, norm_eps=1e-5, rope_theta=100000.0, is_head_tied=True,
    )  # fmt: skip
    embedding = model.tensors["tok_embeddings.weight"].read()
    assert not embedding.flags.owndata
    assert not embedding.flags.writeable
    code = (
        "import sys; from pathlib import Path; from camelid.checkpoint import gguf\n"
        "model = gguf.read(Path(sys.argv[1]))\n"
        "print(len(model.tensors), *[name for name in ('torch', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["272"]


@pytest.mark.slow
def test_smollm2_is_what_the_package_reads() -> None:
    path = smollm2_path()
    reader = GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    metadata = gguf.read_metadata(path)
    assert {
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in metadata.items()
    } == fields
    model = gguf.read(path)
    assert len(reader.tensors) == len(model.tensors)
    for stored in reader.tensors:
        name = from_gguf(stored.name)
        assert name is not None
        tensor = model.tensors[name]
        assert ENCODING_TYPES[tensor.encoding.name] == stored.tensor_type
        wanted = ordered_as_ours(stored.name, quants.dequantize(stored.data, stored.tensor_type), model.config)
        assert np.array_equal(decode(tensor.read(), tensor.encoding, tensor.shape), wanted)
