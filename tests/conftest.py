"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine
from process_pool import ProcessPool
from tiny import write_tiny_recipe

from camelid.pipeline import Run, run_chain
from camelid.recipe import load_recipe

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data beside the checkout; without it the test skips, or fails where it is required."""
    if not SHARED.is_dir():
        if os.environ.get("CAMELID_REQUIRE_SHARED") == "1":
            pytest.fail(f"{SHARED} is missing, and CAMELID_REQUIRE_SHARED=1 says that it must be there")
        pytest.skip("the shared sample data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the tiny recipe; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe, base = load_recipe(str(write_tiny_recipe(folder)))
    run = Run(recipe, folder / "run", base, {})
    run_chain(run, "report")
    return run.directory


@pytest.fixture
def camelid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `camelid` in the test's own process."""
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """One pool of processes for all meshes, which are started when a test first needs them."""
    processes = ProcessPool()
    yield processes
    processes.close()
