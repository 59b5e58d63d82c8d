"""`camelid chat`: a conversation in the terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from camelid.cli.options import DeviceOption, ModelOption, ThreadsOption
from camelid.errors import UserError

Stream = Callable[[list[dict[str, str]], dict[str, Any]], Iterator[str]]
"""(messages, sampling settings) -> pieces of the answer."""

_HELP = """/help              this list
/clear             forget the conversation, keep the system message
/system TEXT       set the system message; without a text, remove it
/undo              take back the last question and its answer
/retry             answer the last question again, with another seed
/set NAME VALUE    change a sampling setting: temperature, top_k, top_p, max_tokens, seed, ...
/show              the settings and the length of the conversation
/save FILE         write the conversation as JSON
/quit              leave (so does Ctrl-D)
A line that ends in \\ goes on in the next; \"\"\" begins and ends a message of several lines.
Ctrl-C stops an answer."""
_BLOCK = '"""'


class _Leave(Exception):  # noqa: N818  (not an error)
    pass


@dataclass
class Conversation:
    """What was said, and how the answers are drawn."""

    stream: Stream
    sampling: dict[str, Any]
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages in order, the system message first."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def ask(self, question: str) -> Iterator[str]:
        """Yields the answer; what was said of it before an interruption stays in the conversation."""
        self.turns.append({"role": "user", "content": question})
        pieces: list[str] = []
        try:
            for piece in self.stream(self.messages, self.sampling):
                pieces.append(piece)
                yield piece
        except UserError:
            self.turns.pop()
            raise
        except BaseException:
            self.turns.append({"role": "assistant", "content": "".join(pieces)})
            raise
        self.turns.append({"role": "assistant", "content": "".join(pieces)})

    def take_back(self) -> str:
        """Removes the last question with its answer, and returns the question.

        Raises:
            UserError: nothing was asked yet.
        """
        while self.turns:
            turn = self.turns.pop()
            if turn["role"] == "user":
                return turn["content"]
        raise UserError("nothing was asked yet")


def chat(
    model: ModelOption,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 1024,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 is no limit.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens up to this probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed and words give the same answers.")] = 0,
    threads: ThreadsOption = 0,
    device: DeviceOption = "cpu",
) -> None:
    """Talk with a model; /help lists what can be said besides."""
    from camelid import Llama

    llama = Llama.load(model, device, num_threads=threads, max_sequences=1)
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    conversation = Conversation(lambda messages, settings: llama.chat(messages, **settings), sampling, system)
    llama.check_chat()
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _use_line_editing()
        sys.stderr.write(f"{model}: say something, or /help\n")
    while True:
        try:
            text = _read_message(is_terminal)
        except (EOFError, _Leave):
            break
        except KeyboardInterrupt:
            sys.stderr.write("\n/quit or Ctrl-D leaves\n")
            continue
        try:
            _handle(conversation, text)
        except _Leave:
            break
        except UserError as error:
            sys.stderr.write(f"{error}\n")
    if is_terminal:
        sys.stderr.write("\n")


def _use_line_editing() -> None:
    with contextlib.suppress(ImportError):  # not everywhere
        import readline

        readline.set_auto_history(True)


def _read_message(is_terminal: bool) -> str:
    """One message, of several lines where they are marked so."""
    prompt, more = ("> ", ". ") if is_terminal else ("", "")
    line = input(prompt)
    if line.strip().startswith(_BLOCK):
        lines = [line.strip().removeprefix(_BLOCK)]
        while not lines[-1].rstrip().endswith(_BLOCK):
            lines.append(input(more))
        lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(more))
    return "\n".join(lines)


def _handle(conversation: Conversation, text: str) -> None:
    if not text.strip():
        return
    if text.startswith("/"):
        name, _, rest = text[1:].partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            raise UserError(f"there is no command /{name}; /help lists them")
        command(conversation, rest.strip())
    else:
        _answer(conversation, text)


def _answer(conversation: Conversation, question: str) -> None:
    try:
        for piece in conversation.ask(question):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(" (stopped)")
    sys.stdout.write("\n")


def _show_help(_conversation: Conversation, _rest: str) -> None:
    sys.stderr.write(f"{_HELP}\n")


def _clear(conversation: Conversation, _rest: str) -> None:
    conversation.turns.clear()


def _set_system(conversation: Conversation, rest: str) -> None:
    conversation.system = rest


def _undo(conversation: Conversation, _rest: str) -> None:
    conversation.take_back()


def _retry(conversation: Conversation, _rest: str) -> None:
    question = conversation.take_back()
    conversation.sampling["seed"] += 1
    _answer(conversation, question)


def _set(conversation: Conversation, rest: str) -> None:
    from camelid.inference.request import SamplingSettings
    from camelid.settings import parse_value, validate

    name, _, value = rest.partition(" ")
    changed = {**conversation.sampling, name: parse_value(value.strip())}
    validate(SamplingSettings, changed, "/set")
    conversation.sampling = changed


def _show(conversation: Conversation, _rest: str) -> None:
    settings = ", ".join(f"{name} {value}" for name, value in conversation.sampling.items())
    sys.stderr.write(f"{settings}; {len(conversation.turns)} messages\n")


def _save(conversation: Conversation, rest: str) -> None:
    import json

    if not rest:
        raise UserError("say where: /save FILE")
    path = Path(rest)
    if path.exists():
        raise UserError(f"{path} exists already; name another file")
    try:
        path.write_text(json.dumps(conversation.messages, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    sys.stderr.write(f"wrote {path}\n")


def _quit(_conversation: Conversation, _rest: str) -> None:
    raise _Leave


_COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "help": _show_help,
    "clear": _clear,
    "system": _set_system,
    "undo": _undo,
    "retry": _retry,
    "set": _set,
    "show": _show,
    "save": _save,
    "quit": _quit,
    "exit": _quit,
}
