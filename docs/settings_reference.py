"""Writes settings.md from the recipe's models: every key with its type, limits, default and sentence."""

import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo

from camelid.recipe import Recipe
from camelid.settings import Settings, is_settings, read_sentences, union_members
from camelid.training.settings import InstructSettings

PAGE = Path(__file__).with_name("settings.md")
INTRODUCTION = """\
# Settings

Every key that a recipe knows, in the order of the chain. A recipe is a TOML file; `--set train.steps=100` on the
command line changes one value of it. A key that is not listed here is refused with the nearest one that is. This page
is written by `make docs` from the models that check a recipe, so it cannot say anything else.
"""
NAMES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}
LIMITS: dict[type, tuple[str, str]] = {
    annotated_types.Gt: ("above", "gt"),
    annotated_types.Ge: ("at least", "ge"),
    annotated_types.Lt: ("below", "lt"),
    annotated_types.Le: ("at most", "le"),
    annotated_types.MultipleOf: ("a multiple of", "multiple_of"),
    annotated_types.MinLen: ("at least this many:", "min_length"),
    annotated_types.MaxLen: ("at most this many:", "max_length"),
}


def render() -> str:
    """The whole page."""
    return "\n".join(
        [INTRODUCTION, *describe(Recipe, ""), "## `[instruct]`\n", *describe(InstructSettings, "instruct")]
    )


def describe(model: type[Settings], path: str) -> Iterator[str]:
    """Lines on one table of the recipe, then on the tables below it."""
    below: list[tuple[str, type[Settings]]] = []
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    sentences = read_sentences(model)
    for name, field in model.model_fields.items():
        if name == "kind":  # the heading says it
            continue
        inner, is_list = _settings_below(field.annotation)
        for member in inner:
            place = f"{path}.{name}".lstrip(".")
            below.append((f"[[{place}]]" if is_list else f"[{place}]", member))
        if inner and not is_list:
            continue
        value = "list of tables, see below" if inner else _say_type(field)
        rows.append(f"| `{name}` | {value} | {_say_default(field)} | {_in_cell(sentences[name])} |")
    if path:
        yield f"{(model.__doc__ or '').strip()}\n"
    if len(rows) > 2:
        yield "\n".join(rows) + "\n"
    for heading, member in below:
        yield f"## `{heading}`{_say_kind(member)}\n"
        yield from describe(member, heading.strip("[]"))


def _settings_below(annotation: Any) -> tuple[list[type[Settings]], bool]:
    members = union_members(annotation)
    is_list = len(members) == 1 and typing.get_origin(members[0]) in (tuple, list)
    if is_list:
        members = union_members(typing.get_args(members[0])[0])
    return [member for member in members if is_settings(member)], is_list


def _say_type(field: FieldInfo) -> str:
    limits = [f"{words} {getattr(item, name):,}" for item in field.metadata for words, name in [_limit(item)] if words]
    patterns = [f"matching `{item.pattern}`" for item in field.metadata if getattr(item, "pattern", None)]
    return _in_cell(", ".join([_say_annotation(field.annotation), *limits, *patterns]))


def _limit(item: Any) -> tuple[str, str]:
    return LIMITS.get(type(item), ("", ""))


def _say_annotation(annotation: Any) -> str:
    names = [_say_member(member) for member in union_members(annotation)]
    return " or ".join(dict.fromkeys(names))


def _say_member(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        *others, last = [f"`{json.dumps(value)}`" for value in arguments]
        return f"{', '.join(others)} or {last}" if others else last
    if isinstance(annotation, types.GenericAlias) and annotation.__origin__ is dict:
        return f"table of {_say_annotation(arguments[1])}s by name"
    if isinstance(annotation, types.GenericAlias):
        return f"list of {_say_annotation(arguments[0])}s".replace("texts", "text")
    return NAMES[annotation]


def _say_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "none"
    if type(default) is int:
        return f"`{default:_}`" if default >= 10_000 else f"`{default}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return _in_cell(f"`{json.dumps(default, default=str, ensure_ascii=False)}`")


def _say_kind(model: type[Settings]) -> str:
    kind = model.model_fields.get("kind")
    return f" with `kind = {json.dumps(typing.get_args(kind.annotation)[0])}`" if kind else ""


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stderr.write(f"wrote {PAGE}\n")
