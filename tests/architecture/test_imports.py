"""Imports point one way: the rule as data, a checker that parses every import, and proof that the checker can fail."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"

BASE = ("errors", "settings", "lock", "artifact", "metrics", "progress", "encoding", "processor")
"""Everything may import these; they import one another and nothing else."""

ROOMS: dict[str, tuple[str, ...]] = {
    "corpus": (),
    "tokenizer": (),
    "dataset": ("corpus.document", "tokenizer"),
    "model": (),
    "planning": ("model.config",),
    "checkpoint": ("model", "tokenizer", "planning"),
    "parallel": ("model", "planning"),
    "training": ("tokenizer", "dataset", "model", "parallel", "checkpoint", "planning"),
    "inference": ("model", "tokenizer", "checkpoint", "planning"),
    "quantization": ("model", "checkpoint", "inference"),
    "evaluation": ("inference", "dataset", "corpus.document", "checkpoint", "model", "training"),
    "report": (),
}
"""What each room may import besides the base and itself."""

SETTINGS_OF_ROOMS = (*(f"{room}.settings" for room in ROOMS), "model.config")

ABOVE: dict[str, tuple[str, ...]] = {
    "": ("inference",),
    "__main__": ("cli",),
    "recipe": SETTINGS_OF_ROOMS,
    "pipeline": (*ROOMS, "recipe"),
    "cli": (*ROOMS, "recipe", "pipeline"),
}
"""What puts the rooms together; no room may import it."""

TORCH = (
    "model",
    "checkpoint.load",
    "checkpoint.native",
    "checkpoint.sharded",
    "checkpoint.verify",
    "quantization",
    "parallel",
    "training",
    "inference.runners.torch_linear",
    "inference.runners.torch_runner",
    "evaluation",
    "cli",
)
WITHOUT_TORCH = (
    "model.config",
    "quantization.settings",
    "model.presets",
    "parallel.launch",
    "parallel.place",
    "parallel.settings",
    "training.settings",
    "inference.settings",
    "evaluation.settings",
)
"""What may import torch, and the exceptions below it."""

WITHOUT_TORCH_TRANSITIVELY = (
    "corpus",
    "tokenizer",
    "dataset",
    "planning",
    "report",
    "recipe",
    "pipeline",
    "checkpoint.stored",
    "checkpoint.convert",
    "checkpoint.gguf",
    "checkpoint.gguf_config",
    "checkpoint.gguf_header",
    "checkpoint.gguf_write",
    "checkpoint.hf_safetensors",
    "checkpoint.llama2c",
    "checkpoint.meta_pth",
    "checkpoint.native",
    "checkpoint.shards",
    "inference.answer",
    "inference.batch",
    "inference.engine",
    "inference.kernels",
    "inference.llama",
    "inference.pages",
    "inference.request",
    "inference.runners.native",
    "inference.sampler",
    "inference.scheduler",
    "inference.speculative",
    "inference.speed",
    "inference.step",
    *WITHOUT_TORCH,
)
EXTRAS: dict[str, tuple[str, ...]] = {"corpus": ("corpus", "cluster"), "training": ("float8",)}
"""Rooms that may import the packages of optional extras, where they are used."""

IMPORT_NAMES = {"fasttext-numpy2": "fasttext"}
"""Packages that are imported by another name."""

SLOW = ("torch", "pyarrow", "sentencepiece", "matplotlib", "transformers", "safetensors")
"""What a settings module must not load, so that recipes and --help stay quick."""


def is_below(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def module_name(path: Path) -> str:
    """`corpus.document` for src/camelid/corpus/document.py; empty for the package itself."""
    parts = path.relative_to(SOURCE / "camelid").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(text: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions and TYPE_CHECKING blocks too.

    `from camelid import x` gives camelid.x, so that a module cannot hide behind its package.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = f"camelid.{module}".split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, node.module] if node.module else package)
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}" if origin.startswith("camelid") else origin


def find_wrong_imports(text: str, module: str) -> list[str]:
    """Each import of one module that points the wrong way, in words."""
    room = module.partition(".")[0]
    if room not in (*BASE, *ROOMS, *ABOVE):
        return [f"camelid.{module}: {room} is in no rule; say in this test what it may import"]
    allowed = (*BASE, *ROOMS.get(room, ()), *ABOVE.get(room, ()), *(() if room in BASE else (room,)))
    wrong = []
    for line, name in find_imports(text, module):
        if name == "torch" or name.startswith("torch."):
            if not is_below(module, TORCH) or is_below(module, WITHOUT_TORCH):
                wrong.append(f"camelid.{module}, line {line}: imports torch, which is not for it")
        elif name.startswith("camelid."):
            target = name.removeprefix("camelid.")
            if not (is_below(target, allowed) or target in ("__version__", "Llama")):
                wrong.append(f"camelid.{module}, line {line}: must not import {name}")
    return wrong


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted((SOURCE / "camelid").rglob("*.py"))}


@pytest.mark.parametrize(("module", "path"), modules().items(), ids=[name or "camelid" for name in modules()])
def test_imports_point_one_way(module: str, path: Path) -> None:
    assert find_wrong_imports(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("model.llama", "from camelid.training import trainer"),
        ("model.llama", "def f():\n    from camelid.training.trainer import train"),
        ("model.llama", "if TYPE_CHECKING:\n    import camelid.training"),
        ("model.llama", "from ..training import trainer"),
        ("model.llama", "from camelid import training"),
        ("model.config", "from torch import nn"),
        ("corpus.build", "import torch.nn.functional as F"),
        ("corpus.build", "from camelid.tokenizer.load import load_tokenizer"),
        ("tokenizer.load", "from camelid.corpus.document import Document"),
        ("dataset.loader", "from camelid.corpus.build import build_corpus"),
        ("planning.shapes", "from camelid.model.llama import Transformer"),
        ("report.page", "from camelid.training.settings import TrainSettings"),
        ("settings", "from camelid.model.config import ModelConfig"),
        ("training.trainer", "from camelid.recipe import Recipe"),
        ("training.trainer", "from camelid import pipeline"),
        ("recipe", "from camelid.training.trainer import train"),
        ("attic.thing", "import json"),
    ],
)
def test_a_wrong_import_is_found(module: str, text: str) -> None:
    assert len(find_wrong_imports(text, module)) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("model.llama", "import torch\nfrom camelid.model.config import ModelConfig\nfrom camelid import artifact"),
        ("dataset.tokenize", "from camelid.corpus.document import read_documents"),
        ("recipe", "from camelid.training.settings import TrainSettings\nfrom camelid.model.config import ModelConfig"),
        ("cli.run", "def f():\n    from camelid.pipeline import run_chain"),
    ],
)
def test_a_right_import_is_let_through(module: str, text: str) -> None:
    assert find_wrong_imports(text, module) == []


def loaded_by(module: str, names: tuple[str, ...]) -> list[str]:
    code = f"import sys, {module}; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_is_without_torch_does_not_load_it_through_others() -> None:
    names = [f"camelid.{name}" for name in modules() if is_below(name, WITHOUT_TORCH_TRANSITIVELY)]
    assert loaded_by(", ".join(names), ("torch",)) == []


def test_settings_and_recipe_are_quick_to_import() -> None:
    names = [name for name in modules() if name in (*BASE, *SETTINGS_OF_ROOMS, "recipe")]
    assert loaded_by(", ".join(f"camelid.{name}" for name in names), SLOW) == []


def test_the_package_loads_next_to_nothing() -> None:
    assert loaded_by("camelid", ("torch", "numpy", "matplotlib", "pydantic", "camelid.settings")) == []


def test_the_command_line_loads_neither_torch_nor_plots_nor_recipes() -> None:
    forbidden = ("torch", "numpy", "matplotlib", "pyarrow", "camelid.recipe", "camelid.pipeline")
    assert loaded_by("camelid.cli", forbidden) == []


def test_core_needs_only_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {requirement.partition(">")[0].replace("-", "_") for requirement in project["dependencies"]}
    known = {*declared, *sys.stdlib_module_names, "camelid"}
    for module, path in modules().items():
        found = {name.partition(".")[0] for _, name in find_imports(path.read_text(encoding="utf-8"), module)}
        extras = EXTRAS.get(module.partition(".")[0], ())
        packages = [text.partition(">")[0] for extra in extras for text in project["optional-dependencies"][extra]]
        allowed = {*known, *(IMPORT_NAMES.get(package, package.replace("-", "_")) for package in packages)}
        assert found <= allowed, f"camelid.{module} imports {found - allowed}, which pyproject.toml does not name"
