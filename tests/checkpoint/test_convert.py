"""Conversion: types, options, what travels along, full disks, and nothing half-made."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_checkpoints import make_transformers_model, write_huggingface

from camelid import artifact
from camelid.checkpoint import gguf, hf_safetensors, meta_pth, native
from camelid.checkpoint.convert import convert
from camelid.checkpoint.hf_config import to_huggingface_config
from camelid.checkpoint.names import huggingface_name
from camelid.checkpoint.safetensors_file import write_safetensors
from camelid.checkpoint.stored import StoredModel, StoredTensor
from camelid.encoding import ENCODINGS
from camelid.errors import UserError
from camelid.model.config import ModelConfig
from camelid.planning.shapes import count_parameters, parameter_shapes
from camelid.progress import format_count
from camelid.tokenizer.load import load_tokenizer

TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def model(tmp_path: Path) -> StoredModel:
    return hf_safetensors.read(write_huggingface("llama-2", tmp_path / "hf"))


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("name", ["llama-1", "llama-2", "tinyllama"])
def test_types_change_as_in_torch(name: str, dtype: str, tmp_path: Path) -> None:
    """From float16, bfloat16 and float32 into each of them."""
    convert(hf_safetensors.read(write_huggingface(name, tmp_path / "hf")), tmp_path / "out", "huggingface", dtype=dtype)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(TORCH_DTYPES[dtype])[6:]
    found = type(make_transformers_model(name)).from_pretrained(tmp_path / "out").state_dict()
    for key, weight in make_transformers_model(name).state_dict().items():
        assert found[key].dtype == TORCH_DTYPES[dtype]
        assert torch.equal(found[key], weight.to(TORCH_DTYPES[dtype])), key


def change_value(model: StoredModel, name: str, value: float) -> StoredModel:
    """The model with one value of a bfloat16 tensor replaced."""

    def read() -> NDArray[np.uint8]:
        tensor = torch.from_numpy(model.tensors[name].read().copy()).view(torch.bfloat16)
        tensor[5] = value
        return tensor.view(torch.uint8).numpy()

    return replace(model, tensors={**model.tensors, name: replace(model.tensors[name], read=read)})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1e6, "has values beyond the range of f16; choose bf16 or f32"),
        (float("nan"), "NaN"),
        (-float("inf"), "infinity"),
    ],
)
def test_values_that_a_type_cannot_hold(value: float, reason: str, model: StoredModel, tmp_path: Path) -> None:
    name = "layers.1.feed_forward.w2.weight"
    changed = change_value(model, name, value)
    with pytest.raises(UserError, match=rf"hf: tensor {name}.*{reason}"):
        convert(changed, tmp_path / "out", "meta", dtype="f16")
    assert list(tmp_path.iterdir()) == [tmp_path / "hf"]
    convert(changed, tmp_path / "out", "meta")  # without a type nothing is looked at
    assert meta_pth.read(tmp_path / "out").tensors[name].read().tobytes() == changed.tensors[name].read().tobytes()


@pytest.mark.parametrize(
    ("format_name", "options", "reason"),
    [
        ("llama2c", {}, "llama2c can be read and not written; choose native, huggingface, meta, gguf"),
        ("safetensors", {}, "safetensors is no format; choose"),
        ("huggingface", {"dtype": "q8_0"}, "the huggingface format does not hold q8_0; choose f32, f16, bf16"),
        ("native", {"dtype": "float16"}, "the native format does not hold float16"),
        ("native", {"num_shards": 2}, "the native format has no model-parallel shards"),
        ("gguf", {"num_shards": 2}, "the gguf format has no model-parallel shards"),
        ("meta", {"max_shard_bytes": 1000}, "the meta format is not divided by size"),
        ("meta", {"num_shards": 3}, "16 query heads do not divide by 3 shards"),
    ],
)
def test_options_of_another_format(
    format_name: str, options: dict[str, Any], reason: str, model: StoredModel, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        convert(model, tmp_path / "out", format_name, **options)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(model: StoredModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for format_name in ("native", "huggingface", "meta", "gguf"):
        with pytest.raises(UserError, match="exists already"):
            convert(model, tmp_path / "out", format_name)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("format_name", ["native", "huggingface", "meta"])
def test_blocks_have_no_place_in_a_folder(format_name: str, tmp_path: Path) -> None:
    packed = hf_safetensors.read(write_huggingface("llama-2", tmp_path / "hf"))
    name = "layers.0.feed_forward.w1.weight"
    tensor = replace(packed.tensors[name], encoding=ENCODINGS["q8_0"])
    packed = replace(packed, tensors={**packed.tensors, name: tensor})
    with pytest.raises(
        UserError, match=rf"tensor {name} is stored as q8_0, which the {format_name} format cannot hold"
    ):
        convert(packed, tmp_path / "out", format_name)


@pytest.mark.parametrize("format_name", ["native", "huggingface", "meta"])
def test_tokenizer_and_licence_travel(format_name: str, shared_data: Path, tmp_path: Path) -> None:
    source = write_huggingface("llama-1", tmp_path / "hf")
    shutil.copy(shared_data / "models" / "llama-tokenizer" / "tokenizer.model", source)
    (source / "LICENSE").write_text("take it", encoding="utf-8")
    convert(hf_safetensors.read(source), tmp_path / "out", format_name)
    assert (tmp_path / "out" / "LICENSE").read_text(encoding="utf-8") == "take it"
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").is_file() == (format_name == "huggingface")
    assert load_tokenizer(tmp_path / "out").encode("A llama") == load_tokenizer(source).encode("A llama")


def test_tokenizer_of_a_file_becomes_files(tiny_run: Path, tmp_path: Path) -> None:
    start = native.read(native.find_checkpoint(tiny_run))
    convert(start, tmp_path / "tiny.gguf", "gguf")
    convert(gguf.read(tmp_path / "tiny.gguf"), tmp_path / "out", "native")
    assert native.read(tmp_path / "out").config == start.config
    expected = start.load_tokenizer().encode("The llama sleeps.")
    assert native.read(tmp_path / "out").load_tokenizer().encode("The llama sleeps.") == expected


def test_manifest_says_what_it_came_from(tiny_run: Path, tmp_path: Path) -> None:
    source = native.find_checkpoint(tiny_run)
    convert(native.read(source), tmp_path / "hf", "huggingface")
    manifest = artifact.verify(tmp_path / "hf", native.KIND)
    assert manifest.inputs == {"model": artifact.read_manifest(source).digest}
    assert manifest.settings["format"] == "huggingface"
    assert manifest.settings["source_format"] == "native"
    convert(hf_safetensors.read(tmp_path / "hf"), tmp_path / "meta", "meta")
    assert artifact.verify(tmp_path / "meta").inputs == {"model": manifest.digest}


def test_equal_models_give_equal_files(model: StoredModel, tmp_path: Path) -> None:
    for format_name in ("native", "huggingface", "meta"):
        for number in (1, 2):
            convert(model, tmp_path / f"{format_name}-{number}" / "x", format_name)
        first, second = (artifact.read_manifest(tmp_path / f"{format_name}-{number}" / "x") for number in (1, 2))
        assert first.digest == second.digest


def test_progress_ends_at_all_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tied head is read twice for Meta's format, and counted once."""
    tied = hf_safetensors.read(write_huggingface("llama-3.2", tmp_path / "hf"))
    capsys.readouterr()
    convert(tied, tmp_path / "out", "meta")
    num_bytes = format_count(2 * count_parameters(tied.config), "bytes")
    assert f"Converting: {num_bytes} of {num_bytes}, " in capsys.readouterr().err


def test_an_error_while_reading_leaves_nothing(model: StoredModel, tmp_path: Path) -> None:
    def refuse() -> NDArray[np.uint8]:
        raise UserError("the disk with the model went away")

    name = "layers.1.attention.wo.weight"
    broken = replace(model, tensors={**model.tensors, name: replace(model.tensors[name], read=refuse)})
    for format_name in ("native", "huggingface", "meta"):
        with pytest.raises(UserError, match="went away"):
            convert(broken, tmp_path / "out", format_name)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from camelid.checkpoint import hf_safetensors
from camelid.checkpoint.convert import convert
from camelid.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = hf_safetensors.read(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what the system answers on a full disk
try:
    convert(model, Path(sys.argv[2]), sys.argv[3])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("format_name", ["native", "huggingface", "meta"])
def test_a_full_disk_is_one_sentence(format_name: str, model: StoredModel, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(model.path), str(tmp_path / "out"), format_name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "out could not be written: file too large after" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "hf"]


MEMORY = """
import json, resource, sys, threading, time
from pathlib import Path
from camelid.checkpoint import hf_safetensors, meta_pth
from camelid.checkpoint.convert import convert

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], anonymous_bytes())

source, target, format_name, num_shards, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
idle = anonymous_bytes()
peak, done = [0], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
model = (hf_safetensors if (Path(source) / "config.json").exists() else meta_pth).read(Path(source))
convert(model, Path(target), format_name, num_shards=int(num_shards))
done.set()
thread.join()
print(json.dumps({"idle_bytes": idle, "peak_bytes": peak[0]}))
"""


WAYS = (("hf", "meta", "meta", 8), ("meta", "back", "huggingface", 1), ("hf", "native", "native", 1))


def write_large(folder: Path, num_layers: int, dim: int) -> int:
    """A Hugging Face folder of random bfloat16 weights, written a tensor at a time; returns its bytes."""
    config = ModelConfig(
        dim=dim, num_layers=num_layers, num_heads=32, num_kv_heads=8, ffn_hidden_dim=4 * dim, vocab_size=32000
    )
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> Callable[[], NDArray[np.uint8]]:
        return lambda: rng.integers(0, 256, 2 * int(np.prod(shape)), np.uint8)

    tensors = [
        StoredTensor(huggingface_name(name), shape, ENCODINGS["bf16"], draw(shape))
        for name, shape in parameter_shapes(config).items()
    ]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_huggingface_config(config, "bf16", {})))
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return sum(tensor.encoding.num_bytes(tensor.shape) for tensor in tensors)


def convert_within(limit: int, source: Path, target: Path, format_name: str, num_shards: int = 1) -> int:
    """Converts in a process of its own whose anonymous memory is limited; returns the bytes that it came to need."""
    command = [sys.executable, "-c", MEMORY, str(source), str(target), format_name, str(num_shards), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    return int(measured["peak_bytes"] - measured["idle_bytes"])


def test_memory_stays_within_a_few_tensors(tmp_path: Path) -> None:
    num_bytes = write_large(tmp_path / "hf", num_layers=8, dim=512)
    largest = 2 * 32000 * 512
    assert num_bytes > 3.5 * largest
    for source, target, format_name, num_shards in WAYS:
        needed = convert_within(1 << 40, tmp_path / source, tmp_path / target, format_name, num_shards)
        assert needed < 2.2 * largest


@pytest.mark.slow
def test_a_model_larger_than_memory_is_converted(tmp_path: Path) -> None:
    limit = 1_500_000_000
    assert write_large(tmp_path / "hf", num_layers=24, dim=2048) > 2 * limit
    with pytest.raises(MemoryError):  # the limit is one: what does not stream does not fit
        resource_limited_read(tmp_path / "hf" / "model.safetensors", limit)
    for source, target, format_name, num_shards in WAYS:
        needed = convert_within(limit, tmp_path / source, tmp_path / target, format_name, num_shards)
        assert needed < limit / 3
    first, again = hf_safetensors.read(tmp_path / "hf"), hf_safetensors.read(tmp_path / "back")
    assert all(np.array_equal(again.tensors[name].read(), tensor.read()) for name, tensor in first.tensors.items())


def resource_limited_read(path: Path, limit: int) -> None:
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))\n"
        f"open({str(path)!r}, 'rb').read()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "MemoryError" in done.stderr:
        raise MemoryError
