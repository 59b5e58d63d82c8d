"""A command that is stopped says so, and no exit code is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from command_line import CommandLine
from tiny import write_tiny_recipe

from camelid.artifact import partial_path
from camelid.cli import app as commands


def test_ctrl_c_in_the_middle_of_a_build(tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    text = "\n".join((tmp_path / "text" / f"note-{number:02d}.txt").read_text() for number in range(30))
    for number in range(16):
        (tmp_path / "text" / f"large-{number:02d}.txt").write_text(f"{number}\n{text}\n" * (1 + (4 << 20) // len(text)))
    words = ["corpus", "build", str(recipe), "--out", str(tmp_path / "run"), "--workers", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "camelid", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            tasks = partial_path(tmp_path / "run" / "corpus")
            while process.poll() is None and not list(tasks.glob("*/0*")):
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGINT)
            out, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert told.splitlines()[-1] == "camelid: stopped"
    assert "Traceback" not in told
    assert (process.returncode, out) == (130, "")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [(typer.Exit(3), 3, ""), (typer.Exit(), 0, ""), (KeyboardInterrupt(), 130, "camelid: stopped\n")],
)
def test_the_code_of_a_command_is_that_of_the_process(
    camelid: CommandLine, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, told: str
) -> None:
    def fail() -> None:
        raise error

    (doctor,) = [command for command in commands.app.registered_commands if command.name == "doctor"]
    monkeypatch.setattr(doctor, "callback", fail)
    assert camelid("doctor") == (code, "", told)
