"""Messages become the token ids that a model was taught to answer.

What a message says is text and nothing else: where it holds the name of a control token, a mark breaks the name before
the template sees it, control tokens are looked for in what the template wrote, and the marks are taken out again.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from camelid.errors import UserError
from camelid.tokenizer.chat_template import NAMED_TEMPLATES, render_template
from camelid.tokenizer.interface import Tokenizer, to_utf8

ROLES = ("system", "developer", "user", "assistant", "tool", "ipython", "function")
"""Who a message can be from; which of them a model knows is its template's matter."""

_MAX_DEPTH = 32
_MARKS = range(0x12000, 0x1239A)  # cuneiform: rare, and left as it is where a template writes a list as Python does


def find_template(tokenizer: Tokenizer, template: str | None = None) -> str:
    """The template to write chats with: the one given, or else the model's own.

    Raises:
        UserError: there is neither.
    """
    found = template if template is not None else tokenizer.chat_template
    if found is None:
        raise UserError(
            "the model came without a chat template, so it was not made for chats or lost it; put the template beside "
            f"it as chat_template.jinja, or name one that Camelid has: {', '.join(NAMED_TEMPLATES)}"
        )
    return found


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    *,
    template: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a chat as the model's template writes it, BOS included where the template writes it.

    Args:
        messages: each with a `role` of `ROLES`, a `content`, and what else the template reads.
        add_generation_prompt: whether to end with what an answer begins with.
        template: to write with in place of the model's own.
        variables: what else the template reads, `tools` for example.

    Raises:
        UserError: there is no template, it refuses the messages, or they are not plain data.
    """
    source = find_template(tokenizer, template)
    if not messages:
        raise UserError("the chat has no message; begin with one of the user")
    if taken := {"messages", "add_generation_prompt"}.intersection(variables or ()):
        raise UserError(f"the chat's variables hold {taken.pop()!r}, which is given otherwise; leave it out")
    chat = [_read_message(message) for message in messages]
    others = {name: _to_plain(value, name) for name, value in (variables or {}).items()}
    guard = _Guard(tokenizer, json.dumps([chat, others], ensure_ascii=False) + source)
    own = {"bos_token": tokenizer.bos_id if tokenizer.has_bos else None}
    own |= {"eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id}
    names = {index: name for name, index in tokenizer.special_tokens.items()}
    text = render_template(
        source,
        {
            **{name: names[index] for name, index in own.items() if index is not None},
            "messages": [{**guard.protect(message), "role": message["role"]} for message in chat],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **guard.protect(others),
        },
    )
    return tokenizer.encode_parts(guard.split(text))


def _read_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as plain data; what is None is left out, for many templates take it for text."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise UserError(f"a message is from {role!r}; its role must be one of {', '.join(ROLES)}")
    return {str(name): _to_plain(value, str(name)) for name, value in message.items() if value is not None}


def _to_plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of JSON's types, whose methods are known."""
    if depth > _MAX_DEPTH:
        raise UserError(f"the {where} of a chat is nested more than {_MAX_DEPTH} deep; make it flatter")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return to_utf8(value).decode()
    if isinstance(value, Mapping):
        return {_to_plain(key, where, depth): _to_plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, where, depth + 1) for item in value]
    raise UserError(f"the {where} of a chat holds a {type(value).__name__}; give text, numbers, lists or dictionaries")


@dataclass(frozen=True)
class _Names:
    """The names of control tokens, in the ways in which they are looked for."""

    whole: re.Pattern[str]
    """The longest name first where several begin at one place."""
    beginnings: re.Pattern[str]
    """The first character of each name, also of those that overlap."""
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    """Beginnings and ends of names, which could become one where texts meet."""
    unbreakable: tuple[str, ...]


@lru_cache(maxsize=16)
def _find_names(names: tuple[str, ...]) -> _Names:
    longest_first = sorted(names, key=len, reverse=True)
    # The first characters alone are looked for quickly.
    firsts = f"(?=[{''.join(re.escape(name[0]) for name in names)}])"
    either = "|".join(map(re.escape, longest_first))
    return _Names(
        whole=re.compile(f"{firsts}(?:{either})"),
        beginnings=re.compile(f"{firsts}(?={either}).", re.DOTALL),
        heads=tuple({name[:size] for name in names for size in range(1, len(name))}),
        tails=tuple({name[size:] for name in names for size in range(1, len(name))}),
        unbreakable=tuple(name for name in names if len(name) == 1),
    )


class _Guard:
    """Keeps the names of control tokens that a chat holds apart from those that its template writes.

    Args:
        known: everything that the template reads, in which the mark must not occur.
    """

    def __init__(self, tokenizer: Tokenizer, known: str):
        self._tokenizer = tokenizer
        self._names = _find_names(tuple(tokenizer.special_tokens))
        self._mark = next(chr(mark) for mark in _MARKS if chr(mark) not in known)

    def protect(self, value: Any) -> Any:
        """The same data with marks that break the names, and part what could be joined to one."""
        if isinstance(value, str):
            return self._protect_text(value)
        if isinstance(value, dict):
            return {self.protect(key): self.protect(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.protect(item) for item in value]
        return value

    def _protect_text(self, text: str) -> str:
        for name in self._names.unbreakable:
            if name in text:
                raise UserError(f"the chat holds {name!r}, which this model knows as control alone; take it out")
        text = self._names.beginnings.sub(lambda found: found[0] + self._mark, text)
        before = self._mark if text.startswith(self._names.tails) else ""
        after = self._mark if text.endswith(self._names.heads) else ""
        return f"{before}{text}{after}"

    def split(self, text: str) -> Iterator[str | int]:
        """What a template wrote, as plain text without marks and the ids of control tokens."""
        place = 0
        for found in self._names.whole.finditer(text):
            strips_left, strips_right = self._tokenizer.stripping.get(found[0], (False, False))
            before = text[place : found.start()].replace(self._mark, "")
            if before := before.rstrip() if strips_left else before:
                yield before
            yield self._tokenizer.special_tokens[found[0]]
            place = found.end()
            while strips_right and text[place : place + 1].isspace():
                place += 1
        if rest := text[place:].replace(self._mark, ""):
            yield rest
