"""The conversation: what is said, taken back, set and stopped; and the whole command on a pseudo-terminal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from camelid.cli import chat as chat_module
from camelid.cli.chat import Conversation
from camelid.errors import UserError

handle = chat_module._handle


def parrot(messages: list[dict[str, str]], sampling: dict[str, Any]) -> Iterator[str]:
    """Answers with the last question, word by word, and what it was told about itself."""
    if messages[-1]["content"] == "refuse":
        raise UserError("the prompt is too long")
    for word in messages[-1]["content"].split():
        yield f"{word} "
    yield f"[{len(messages)} messages, seed {sampling['seed']}]"


@pytest.fixture
def conversation() -> Conversation:
    return Conversation(parrot, {"temperature": 0.7, "seed": 0})


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_answers_remember_what_was_said(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    handle(conversation, "hello llama")
    handle(conversation, "and again")
    assert said(capsys) == "hello llama [1 messages, seed 0]\nand again [3 messages, seed 0]\n"
    assert [turn["role"] for turn in conversation.turns] == ["user", "assistant"] * 2


def test_system_message_comes_first(conversation: Conversation) -> None:
    handle(conversation, "/system Be brief.")
    handle(conversation, "hi")
    assert conversation.messages[0] == {"role": "system", "content": "Be brief."}
    handle(conversation, "/clear")
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    handle(conversation, "/system")
    assert conversation.messages == []


def test_undo_and_retry(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    handle(conversation, "one")
    handle(conversation, "two")
    handle(conversation, "/retry")
    assert said(capsys).endswith("two [3 messages, seed 1]\n")
    handle(conversation, "/undo")
    assert [turn["content"] for turn in conversation.turns if turn["role"] == "user"] == ["one"]
    handle(conversation, "/undo")
    with pytest.raises(UserError, match="nothing was asked"):
        handle(conversation, "/undo")


def test_settings_are_checked(conversation: Conversation) -> None:
    handle(conversation, "/set temperature 0.1")
    assert conversation.sampling["temperature"] == 0.1
    with pytest.raises(UserError, match="temperature"):
        handle(conversation, "/set temprature 1")
    with pytest.raises(UserError, match="top_p"):
        handle(conversation, "/set top_p 2")
    assert conversation.sampling == {"temperature": 0.1, "seed": 0}


def test_unknown_command_is_refused(conversation: Conversation) -> None:
    with pytest.raises(UserError, match="no command /quti"):
        handle(conversation, "/quti")


def test_a_refused_question_is_forgotten(conversation: Conversation) -> None:
    with pytest.raises(UserError, match="too long"):
        handle(conversation, "refuse")
    assert conversation.turns == []


def test_an_interrupted_answer_is_kept_as_far_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_messages: list[dict[str, str]], _sampling: dict[str, Any]) -> Iterator[str]:
        yield "as far "
        raise KeyboardInterrupt

    conversation = Conversation(interrupted, {"seed": 0})
    handle(conversation, "go")
    assert said(capsys) == "as far \n"
    assert conversation.turns[-1] == {"role": "assistant", "content": "as far "}


def test_save_writes_the_conversation_once(conversation: Conversation, tmp_path: Path) -> None:
    handle(conversation, "hello")
    path = tmp_path / "talk.json"
    handle(conversation, f"/save {path}")
    assert json.loads(path.read_text(encoding="utf-8")) == conversation.messages
    with pytest.raises(UserError, match="exists already"):
        handle(conversation, f"/save {path}")
    with pytest.raises(UserError, match="cannot be written"):
        handle(conversation, f"/save {tmp_path / 'none' / 'talk.json'}")


def test_messages_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one \\", "two", '"""', "a", "", 'b"""', '"""x"""', "plain"])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(lines))
    read = chat_module._read_message
    assert [read(True) for _ in range(4)] == ["one \ntwo", "a\n\nb", "x", "plain"]
