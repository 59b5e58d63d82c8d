"""The command line run in the test's own process."""

from typing import NamedTuple

import pytest

from camelid.cli import main


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs `camelid` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._monkeypatch.setattr("sys.argv", ["camelid", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = self._capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Outcome(stopped.value.code, captured.out, captured.err)

    def refuse(self, *arguments: object) -> str:
        outcome = self(*arguments)
        sentence = outcome.err.splitlines()[-1]
        assert outcome.code == 2, outcome.err
        assert sentence.startswith("camelid: ")
        assert "Traceback" not in outcome.err
        return sentence
