"""GGUF files as Camelid writes them, compared with what the `gguf` package reads in them and would have written."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, quants
from gguf_files import CONFIG, Array, general_metadata, random_weights, write_gguf

from camelid.checkpoint import gguf
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError
from camelid.model.config import ModelConfig, RopeScaling
from camelid.planning.shapes import parameter_shapes
from camelid.tokenizer.load import load_tokenizer


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def fields_of(path: Path) -> dict[str, tuple[list[GGUFValueType], Any]]:
    return {key: (field.types, field.contents()) for key, field in GGUFReader(path).fields.items()}


def with_tensor(model: StoredModel, name: str, change: Callable[[Array], None]) -> StoredModel:
    """The model, one of whose float32 tensors has other values."""
    tensor = model.tensors[name]
    values = tensor.read().view(np.float32).copy()
    change(values)
    return replace(model, tensors={**model.tensors, name: replace(tensor, read=lambda: values.view(np.uint8))})


def test_what_is_kept_is_kept_to_the_last_bit(tmp_path: Path) -> None:
    for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"):
        path = write_gguf(tmp_path / f"{kind}.gguf", random_weights(CONFIG), general_metadata(CONFIG), kind)
        again = tmp_path / f"{kind}-again.gguf"
        gguf.write(gguf.read(path), again)
        assert tensors_of(again) == tensors_of(path)
        assert gguf.read(again).config == CONFIG


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_what_is_converted_equals_the_package(tmp_path: Path, kind: str) -> None:
    weights = random_weights(CONFIG)
    path = write_gguf(tmp_path / "source.gguf", weights, general_metadata(CONFIG), "f32")
    gguf.write(gguf.read(path), tmp_path / "ours.gguf", kind)
    theirs = write_gguf(tmp_path / "theirs.gguf", weights, general_metadata(CONFIG), kind)
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(theirs)


def test_quantised_weights_are_requantised_from_their_values(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), general_metadata(CONFIG), "q8_0")
    gguf.write(gguf.read(path), tmp_path / "ours.gguf", "q4_0")
    found = tensors_of(tmp_path / "ours.gguf")
    for tensor in GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            values = quants.dequantize(tensor.data, tensor.tensor_type)
            assert found[tensor.name] == ("Q4_0", quants.quantize(values, GGMLQuantizationType.Q4_0).tobytes())


def test_keys_have_the_types_that_llama_cpp_expects(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), general_metadata(CONFIG))
    gguf.write(gguf.read(path), tmp_path / "ours.gguf", "q8_0")
    fields = fields_of(tmp_path / "ours.gguf")
    for key, (types, value) in fields_of(path).items():
        if key not in ("general.file_type", "GGUF.kv_count"):
            assert fields[key] == (types, value), key
    number, text = [GGUFValueType.UINT32], [GGUFValueType.STRING]
    assert fields["general.architecture"] == (text, "llama")
    assert fields["general.type"] == (text, "model")
    assert fields["general.file_type"] == (number, 7)
    assert fields["general.quantization_version"] == (number, 2)
    assert fields["llama.rope.dimension_count"] == (number, 16)
    assert next(iter(fields)) == "GGUF.version"
    assert list(fields)[3] == "general.architecture"


def test_a_mixture_keeps_its_name(tmp_path: Path) -> None:
    metadata = {**general_metadata(CONFIG), "general.file_type": 15}
    model = gguf.read(write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), metadata, "q5_0"))
    assert model.metadata["quantization"] == "q4_k_m"
    gguf.write(model, tmp_path / "kept.gguf")
    gguf.write(model, tmp_path / "changed.gguf", "f16")
    assert gguf.read(tmp_path / "kept.gguf").metadata["quantization"] == "q4_k_m"
    assert gguf.read(tmp_path / "changed.gguf").metadata["quantization"] == "f16"


def test_rope_scaling_goes_there_and_back(tmp_path: Path) -> None:
    for number, scaling in enumerate(
        (
            RopeScaling(factor=32.0, original_max_sequence_length=8192),
            RopeScaling(
                factor=4.0, low_frequency_factor=2.0, high_frequency_factor=6.0, original_max_sequence_length=64
            ),
        )
    ):
        config = CONFIG.model_copy(update={"rope_scaling": scaling, "rope_theta": 500000.0})
        model = gguf.read(write_gguf(tmp_path / f"{number}.gguf", random_weights(CONFIG), general_metadata(CONFIG)))
        gguf.write(replace(model, config=config), tmp_path / f"{number}-again.gguf")
        again = gguf.read(tmp_path / f"{number}-again.gguf").config
        assert again.rope_theta == 500000.0
        assert again.rope_scaling is not None
        assert again.rope_scaling.factor == scaling.factor
        assert again.rope_scaling.original_max_sequence_length == scaling.original_max_sequence_length
        gguf.write(replace(model, config=again), tmp_path / f"{number}-third.gguf")
        factors = [tensors_of(tmp_path / f"{number}-{which}.gguf")["rope_freqs.weight"] for which in ("again", "third")]
        first, second = (np.frombuffer(data, np.float32) for _, data in factors)
        np.testing.assert_allclose(first, second, rtol=1e-5)


def test_a_padded_embedding_gets_unused_tokens(tmp_path: Path) -> None:
    small = CONFIG.model_copy(update={"vocab_size": 37})
    metadata = {**general_metadata(small), "llama.vocab_size": 40}
    gguf.write(
        gguf.read(write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), metadata)), tmp_path / "ours.gguf"
    )
    found = gguf.read_metadata(tmp_path / "ours.gguf")
    assert found["tokenizer.ggml.tokens"][-4:] == ["▁33", "[PAD37]", "[PAD38]", "[PAD39]"]
    assert found["tokenizer.ggml.token_type"].tolist()[-4:] == [1, 5, 5, 5]
    assert found["tokenizer.ggml.scores"].tolist()[-4:] == [-36, -1000, -1000, -1000]


def test_a_sentencepiece_model_becomes_the_vocabulary_that_llama_cpp_made_of_it(
    tmp_path: Path, shared_data: Path
) -> None:
    folder = shared_data / "models" / "llama-tokenizer"
    config = ModelConfig(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_hidden_dim=32, vocab_size=32000)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        data = rng.normal(size=shape).astype(np.float32).reshape(-1).view(np.uint8)
        tensors[name] = StoredTensor(name, shape, ENCODINGS["f32"], lambda data=data: data)  # type: ignore[misc]
    model = StoredModel(tmp_path, "native", config, tensors, lambda: load_tokenizer(folder), {"license": "other"})
    gguf.write(model, tmp_path / "ours.gguf", "f16")
    found = gguf.read_metadata(tmp_path / "ours.gguf")
    wanted = gguf.read_metadata(folder / "ggml-vocab-llama-spm.gguf")
    for key, value in wanted.items():
        if key.startswith("tokenizer."):
            assert np.array_equal(found[key], value), key
    assert (found["general.name"], found["general.license"], found["general.file_type"]) == ("ours", "other", 1)


def test_memory_holds_a_piece_and_not_the_model(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"dim": 1024, "num_heads": 16, "num_kv_heads": 16, "ffn_hidden_dim": 2048})
    path = write_gguf(tmp_path / "source.gguf", random_weights(config), general_metadata(config), "f32")
    model = gguf.read(path)
    gguf.write(model, tmp_path / "warm.gguf", "q8_0")
    largest = 4 * 1024 * 2048
    tracemalloc.start()
    gguf.write(model, tmp_path / "ours.gguf", "q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # wq is copied twice to permute its rows; the file is eight times as large as one such tensor.
    assert path.stat().st_size > 8 * largest
    assert peak < 2 * largest


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model = gguf.read(write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), general_metadata(CONFIG)))
    name = "layers.1.attention.wq.weight"

    def put(value: float) -> Callable[[Array], None]:
        return lambda values: values.__setitem__(1000, value)

    narrow = CONFIG.model_copy(update={"ffn_hidden_dim": 48})
    narrow_path = write_gguf(tmp_path / "narrow.gguf", random_weights(narrow), general_metadata(narrow))
    many = replace(model, config=CONFIG.model_copy(update={"vocab_size": 39}))
    for wrong, encoding, target, message in (
        (model, "q6_k", "a.gguf", "a GGUF file is written as f32, f16, bf16, q8_0, q4_0, q4_1, not q6_k"),
        (model, None, "source.gguf", "exists already"),
        (model, None, "no/such/folder.gguf", "cannot be written: no such file or directory"),
        (gguf.read(narrow_path), "q8_0", "a.gguf", r"w2.weight has rows of 48 values.*q8_0's blocks of 32"),
        (many, None, "a.gguf", "a tokenizer of 40 tokens for a model of 39"),
        (with_tensor(model, name, put(float("nan"))), None, "a.gguf", f"tensor {name}: the value .* is a NaN"),
        (with_tensor(model, name, put(float("inf"))), "q4_0", "a.gguf", f"tensor {name}: the value .* is a NaN or"),
        (with_tensor(model, name, put(1e6)), "f16", "a.gguf", f"tensor {name} has values beyond the range of f16"),
        (with_tensor(model, name, put(1e9)), "q8_0", "a.gguf", f"tensor {name} has values beyond the range of q8_0"),
    ):
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(UserError, match=message):
            gguf.write(wrong, tmp_path / target, encoding)
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_nan_scale_is_refused_with_file_and_tensor(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "source.gguf", random_weights(CONFIG), general_metadata(CONFIG), "q8_0")
    info = {tensor.name: tensor for tensor in GGUFReader(path).tensors}["blk.0.ffn_gate.weight"]
    data = bytearray(path.read_bytes())
    data[info.data_offset + 34 * 5 : info.data_offset + 34 * 5 + 2] = b"\x01\x7e"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"source.gguf: tensor layers.0.feed_forward.w1.weight: the scale of block 5 "):
        gguf.write(gguf.read(path), tmp_path / "ours.gguf")
