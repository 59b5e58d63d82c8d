"""Fixtures of the command line's tests."""

import pytest
from command_line import CommandLine


@pytest.fixture
def camelid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)
