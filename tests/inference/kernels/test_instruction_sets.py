"""Every instruction set computes the same bits, those that this machine lacks too: by emulation.

Plain C++, and AVX-VNNI from AVX2, are compiled for this machine. AVX-512 is computed by SIMD Everywhere (Debian's
libsimde-dev), and NEON by qemu (Debian's qemu-user and g++-aarch64-linux-gnu); both take a minute to compile.
"""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from parity_configs import CONFIGS
from small_models import Floats, int32, make_model

from camelid.checkpoint.stored import StoredModel
from camelid.encoding import decode
from camelid.inference.kernels import build
from camelid.inference.kernels.library import KINDS, Shape, load_kernels
from camelid.inference.runners import native
from camelid.inference.runners.native import NativeRunner, rotary_frequencies
from camelid.inference.step import Step

HERE = Path(__file__).parent
IS_X86 = platform.machine() == "x86_64"
LENGTHS = (150, 7, 1, 300)
OLD_PROCESSORS = ["-march=x86-64"] if IS_X86 else []
EMULATED: dict[str, tuple[str, ...]] = (
    {
        "avx2 with vnni": ("-march=x86-64-v3", "-include", str(HERE / "avxvnni_in_c.h")),
        "avx512 with vnni": ("-march=x86-64-v3", "-O1", "-DCAMELID_AVX512", "-include", str(HERE / "avx512_in_c.h")),
    }
    if IS_X86
    else {}
)
REAL = ["alderlake", "icelake-server"] if IS_X86 else []


def make_steps(config_seed: int) -> list[Step]:
    """Prompts of several lengths together, then two passes with one more token of each."""
    rng = np.random.default_rng(config_seed)
    tables = rng.permutation(4 * 20).astype(np.int32).reshape(4, 20)
    lengths = int32(*LENGTHS)
    first = Step(
        rng.integers(0, 199, lengths.sum(), np.int32),
        lengths,
        lengths * 0,
        tables,
        np.cumsum(lengths, dtype=np.int32) - 1,
    )
    later = [
        Step(rng.integers(0, 199, 4, np.int32), int32(1, 1, 1, 1), lengths + i, tables, int32(0, 1, 2, 3))
        for i in range(2)
    ]
    return [first, *later]


def run_steps(model: StoredModel, flags: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Floats]:
    kernels = load_kernels(flags)
    with monkeypatch.context() as patch:
        patch.setattr(native, "load_kernels", lambda: kernels)
        runner = NativeRunner(model, 80, 16, 2)
        return runner.instruction_set, np.concatenate([runner.run(step) for step in make_steps(1)])


def assert_same_bits(flags: tuple[str, ...], instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in KINDS:
        for name in ("grouped", "head_size_48"):
            model = make_model(CONFIGS[name], encoding)
            _, expected = run_steps(model, None, monkeypatch)
            name_found, logits = run_steps(model, flags, monkeypatch)
            assert name_found == instruction_set
            np.testing.assert_array_equal(logits, expected, err_msg=f"{encoding} {name}")


def test_portable_code_gives_the_bits_of_this_processors_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_bits((*build.native_flags(), "-DCAMELID_PORTABLE", "-O1"), "portable", monkeypatch)


@pytest.mark.parametrize("encoding", ["q4_0", "q4_1", "q8_0"])
def test_tile_instructions_give_the_bits_of_vectors(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(CONFIGS["grouped"], encoding)
    without = "-mno-amx-tile" if IS_X86 else "-DCAMELID_PORTABLE"
    vectors, expected = run_steps(model, (*build.native_flags(), without), monkeypatch)
    emulated, logits = run_steps(model, (*build.native_flags(), "-DCAMELID_EMULATED_TILES"), monkeypatch)
    own, own_logits = run_steps(model, None, monkeypatch)
    assert emulated == f"{vectors} and amx"
    assert own in (vectors, emulated)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(own_logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("flags", OLD_PROCESSORS)
def test_code_for_processors_without_fma_rounds_twice_and_is_near(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("f32", "q4_1"):
        model = make_model(CONFIGS["grouped"], encoding)
        _, expected = run_steps(model, None, monkeypatch)
        instruction_set, logits = run_steps(model, (flags,), monkeypatch)
        assert instruction_set == "portable"
        assert not np.array_equal(logits, expected)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=0.1 if encoding == "q4_1" else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", EMULATED)
def test_emulated_instructions_give_the_same_bits(instruction_set: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_bits(EMULATED[instruction_set], instruction_set, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("march", REAL)
def test_kernels_compile_with_the_real_instructions(march: str, tmp_path: Path) -> None:
    compile_replay(["g++"], f"-march={march}", tmp_path / "replay")


@pytest.mark.slow
def test_neon_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile_replay(["aarch64-linux-gnu-g++", "-static"], "-march=armv8.2-a+dotprod", tmp_path / "replay")
    qemu = shutil.which("qemu-aarch64")
    assert qemu is not None
    for encoding in KINDS:
        model = make_model(CONFIGS["grouped"], encoding)
        _, expected = run_steps(model, None, monkeypatch)
        write_replay(tmp_path / "input", model)
        command = [qemu, "-cpu", "max", str(program), str(tmp_path / "input"), str(tmp_path / "output"), "2"]
        subprocess.run(command, check=True, timeout=600)
        logits = np.fromfile(tmp_path / "output", np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(logits, expected, err_msg=encoding)


def compile_replay(compiler: list[str], flag: str, program: Path) -> Path:
    kept = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    command = [*compiler, *kept, flag, f"-I{build.SOURCES}", str(HERE / "replay.cpp"), "-o", str(program)]
    done = subprocess.run(command, check=False, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def write_replay(path: Path, model: StoredModel) -> None:
    config = model.config
    shape = Shape(
        *(config.dim, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim, config.ffn_hidden_dim),
        *(config.vocab_size, 16, 80, config.norm_eps),
    )
    with path.open("wb") as file:
        file.write(bytes(shape))
        file.write(rotary_frequencies(config).tobytes())
        file.write(int32(len(model.tensors)).tobytes())
        for name, tensor in model.tensors.items():
            is_gain = len(tensor.shape) == 1
            data = decode(tensor.read(), tensor.encoding, tensor.shape).view(np.uint8) if is_gain else tensor.read()
            kind = -1 if is_gain else KINDS.index(tensor.encoding.name)
            rows, columns = (1, *tensor.shape)[-2:]
            file.write(int32(*native._find_place(name), kind, rows, columns, data.size).tobytes())
            file.write(data.tobytes())
        steps = make_steps(1)
        file.write(int32(len(steps)).tobytes())
        for step in steps:
            arrays = (step.tokens, step.num_new, step.num_cached, step.page_tables, step.outputs)
            sizes = (len(step.tokens), *step.page_tables.shape, len(step.outputs))
            file.write(int32(*sizes).tobytes() + b"".join(array.tobytes() for array in arrays))
    assert ctypes.sizeof(shape) == 10 * 4
