"""Every command in the README and in the documentation exists, with its options and settings; slow: they run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.exceptions import TyperException

from camelid.cli.app import app
from camelid.errors import UserError
from camelid.recipe import load_recipe, own_recipes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DIFFERS_FROM_THE_FINISHED_RUN = "camelid run demo --set train.steps=300"
SHORT = (
    "train.steps=4",
    "train.warmup_steps=1",
    "train.compile=no",
    "train.num_threads=1",
    "train.held_out_tokens=2000",
    "evaluation.max_tokens=3000",
    "evaluation.max_compressor_bytes=1000000",
    "evaluation.sample_tokens=8",
)
"""What makes the demo's run take seconds; it changes nothing that another command of the README depends on."""


def find_commands(text: str) -> Iterator[list[str]]:
    """Words of the command lines in code blocks, without their remarks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
    for line in [*"\n".join(fenced).replace("\\\n", " ").splitlines(), *indented]:
        if line.strip().removeprefix("$ ").startswith("camelid "):
            yield shlex.split(line.strip().removeprefix("$ "), comments=True)


def find_mentions(text: str) -> Iterator[list[str]]:
    """Words of the commands in running text and tables, in which arguments may be left out."""
    for span in re.findall(r"`(camelid [^`]+)`", text):
        yield span.split()


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after its name."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name, *rest = rest
        for choice in name.split("|"):
            if choice not in command.commands:
                raise UserError(f"there is no {choice!r} in {' '.join(words)!r}")
        command = command.commands[name.split("|")[0]]
    return command, rest


def check_command(words: list[str]) -> None:
    """Raises where a complete command line would be refused before it does anything."""
    command, rest = find_command(words)
    parsed = command.make_context("camelid", list(rest)).params
    if parsed.get("recipe") in own_recipes():
        load_recipe(parsed["recipe"], parsed.get("set_", []))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_are_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in find_commands(text):
        check_command(words)
    for words in find_mentions(text):
        command, rest = find_command(words)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known, " ".join(words)


@pytest.mark.parametrize(
    "line",
    [
        "camelid rnu demo",
        "camelid dataset track demo --step 1",
        "camelid run demo --dry-rum",
        "camelid run",
        "camelid run demo --set train.stepps=3",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    (words,) = find_commands(f"text\n\n    {line}  # a remark\n")
    with pytest.raises((TyperException, UserError)):
        check_command(words)


def test_every_command_is_in_the_command_reference() -> None:
    def leaves(command: Any, path: str) -> Iterator[str]:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                yield from leaves(below, f"{path} {name}")
        else:
            yield path

    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [path for path in leaves(typer.main.get_command(app), "camelid") if f"`{path}" not in reference]
    assert not missing


def test_readme_shows_the_commands_of_the_tour() -> None:
    tour = [" ".join(words[:2]) for words in find_commands(README)]
    assert {"camelid run", "camelid generate", "camelid dataset"} <= set(tour)
    assert DIFFERS_FROM_THE_FINISHED_RUN in [" ".join(words) for words in find_commands(README)]


@pytest.mark.slow
def test_commands_of_the_readme_run(tmp_path: Path) -> None:
    (tmp_path / "FOLDER").mkdir()
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    (tmp_path / "FOLDER" / "documentation.md").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, input="", capture_output=True, text=True, check=False, timeout=900
        )

    short = [word for setting in SHORT for word in ("--set", setting)]
    begin = run("-m", "camelid", "run", "demo", *short)
    assert begin.returncode == 0, begin.stderr
    for words in find_commands(README):
        is_own_text = words[:3] == ["camelid", "run", "own-text"]
        is_demo = words[1:3] == ["run", "demo"] and " ".join(words) != DIFFERS_FROM_THE_FINISHED_RUN
        extra = (
            ["--set", "corpus.max_characters=2000", "--set", "tokenizer.vocab_size=600", *short] if is_own_text else []
        )
        done = run("-m", *words, *(short if is_demo else extra))
        expected = 2 if " ".join(words) == DIFFERS_FROM_THE_FINISHED_RUN else 0
        assert done.returncode == expected, f"{' '.join(words)}\n{done.stderr}"
    python = re.search(r"^    from camelid import Llama\n(?:    .*\n)+", README, re.MULTILINE)
    assert python
    done = run("-c", re.sub(r"^ {4}", "", python[0], flags=re.MULTILINE))
    assert done.returncode == 0, done.stderr
    assert done.stdout
