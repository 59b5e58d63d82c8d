"""`camelid corpus build`: its options are settings by other names, and sizes are written as people write them."""

from pathlib import Path

import pytest
from tiny import write_tiny_recipe
from typer.testing import CliRunner

from camelid import artifact
from camelid.cli.corpus import app, parse_size
from camelid.errors import UserError


def test_workers_and_memory_change_nothing_but_the_work(tmp_path: Path) -> None:
    recipe = str(write_tiny_recipe(tmp_path))
    digests = set()
    for number, options in enumerate(([], ["--workers", "2", "--memory", "700 MiB", "--engine", "processes"])):
        out = tmp_path / f"run-{number}"
        done = CliRunner().invoke(app, ["build", recipe, "--out", str(out), *options])
        assert done.exit_code == 0, done.output
        digests.add(artifact.read_manifest(out / "corpus").digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", "much"], "--memory 'much' is no size; write it as 1GiB, 500MB or a number of bytes"),
        (["--memory", "64MiB"], r"--memory 64MiB is too little to hold; give at least 256MiB"),
        (["--set", "corpus.memory_bytes=1000"], r"corpus\.memory_bytes must be at least"),
        (["--engine", "dask"], r"corpus\.engine"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    recipe = str(write_tiny_recipe(tmp_path))
    done = CliRunner().invoke(app, ["build", recipe, "--out", str(tmp_path / "run"), *options])
    assert isinstance(done.exception, UserError)
    with pytest.raises(UserError, match=said):
        raise done.exception


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1GiB", 1 << 30), ("500MB", 500_000_000), ("1.5 g", 1_500_000_000), ("64kib", 65_536), ("1073741824", 1 << 30)],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_size(text, "--memory") == num_bytes
