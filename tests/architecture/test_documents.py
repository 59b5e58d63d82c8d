"""What is written about the code follows the code."""

import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from camelid.recipe import load_recipe, own_recipes

ROOT = Path(__file__).resolve().parents[2]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's text as the Apache Software Foundation publishes it."""


def import_settings_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_reference", ROOT / "docs" / "settings_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_what_the_models_say() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == import_settings_reference().render(), "run `make docs` and commit docs/settings.md"


def test_documentation_builds_strictly(tmp_path: Path) -> None:
    # Not --quiet: it silences the warnings before --strict counts them.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file()


@pytest.mark.parametrize("name", own_recipes())
def test_own_recipes_are_right(name: str) -> None:
    assert load_recipe(name)[0].name == name


def test_every_make_target_that_is_named_exists_and_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z-]+):.* ## \w", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == explained
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    named = {
        target
        for page in pages
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= explained


def read_pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def find_needed(requirements: list[str]) -> set[str]:
    """Names of all installed packages that the requirements lead to on this machine."""
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
        if key in seen or key[0] == "camelid":
            continue
        seen.add(key)
        for text in importlib.metadata.requires(requirement.name) or []:
            below = Requirement(text)
            environments = [{"extra": extra} for extra in requirement.extras or {""}]
            if below.marker is None or any(below.marker.evaluate(environment) for environment in environments):
                waiting.append(below)
    return {name for name, _ in seen}


def test_every_package_that_is_needed_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = [
        *project["dependencies"],
        *(text for group in project["optional-dependencies"].values() for text in group),
    ]
    pins = read_pins()
    # Ray is not among what development installs, so what it leads to cannot be asked for.
    installed = [text for text in direct if not text.startswith("ray>")]
    # A CUDA build of torch pins its own companions.
    missing = {
        name for name in find_needed(installed) - pins.keys() if not name.startswith(("nvidia-", "triton", "cuda-"))
    }
    assert not missing, "add them to constraints.txt"
    for text in direct:
        requirement = Requirement(text)
        if requirement.name != "camelid":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_no_pin_is_of_a_build_for_some_hardware() -> None:
    assert not [name for name, version in read_pins().items() if "+" in version or name.startswith("nvidia")]


def test_licence_is_verbatim() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
