"""The base of every settings model: frozen, documented field by field, and deaf to no key.

A settings tree comes from a TOML file, is changed by `--set a.b=c`, and is checked once, here. What a
model does not know is refused with the nearest name that it does know.
"""

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from camelid.errors import UserError

SettingsType = TypeVar("SettingsType", bound="Settings")
Tree = dict[str, Any]


class Settings(BaseModel):
    """A frozen group of settings; the sentence under each field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def read_toml(path: Path) -> Tree:
    """Reads a TOML file.

    Raises:
        UserError: the file is missing, is not UTF-8 or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; name a TOML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def apply_overrides(tree: Tree, overrides: Iterable[str]) -> Tree:
    """Returns a copy of `tree` in which each `a.b=c` has taken effect.

    The value is read as TOML (`3`, `true`, `[1, 2]`, `"text"`); what is not TOML is taken as a string. A whole number
    in the path is a place in a list: `corpus.sources.0.path=books`.

    Raises:
        UserError: an override has no `=`, or walks through something that is not a table.
    """
    result = _copy_tree(tree)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path.strip():
            raise UserError(f"--set {override!r} is not of the form section.key=value")
        keys = path.strip().split(".")
        node: Any = result
        for position, key in enumerate(keys[:-1]):
            node = _descend(node, key, ".".join(keys[: position + 1]), override)
        _assign(node, keys[-1], _parse_value(text.strip()), override)
    return result


def validate(model: type[SettingsType], tree: Tree, where: str) -> SettingsType:
    """Builds `model` from `tree`; `where` names the file in messages.

    Raises:
        UserError: one sentence on the first thing that is wrong, with the nearest right name for an unknown key.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(model, error)}") from error


def _copy_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy_tree(item) for key, item in value.items()}
    return [_copy_tree(item) for item in value] if isinstance(value, list) else value


def _descend(node: Any, key: str, path: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_list_index(node, key, override)]
    child = node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise UserError(f"--set {override!r}: {path} is a value and has no keys below it")
    return child


def _assign(node: Any, key: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_list_index(node, key, override)] = value
    else:
        node[key] = value


def _list_index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise UserError(f"--set {override!r}: {key!r} is not a place in a list of {len(items)} (they count from 0)")
    return int(key)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(model: type[Settings], error: ValidationError) -> str:
    # An unknown key usually explains the other errors, so it is told first.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location = problem["loc"]
    # A dot must not part "sources.0" from its union tag: pydantic puts tags of discriminated unions in the location.
    path = ".".join(str(part) for part in location) or model.__name__
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(known))}"
        return f"unknown key {path!r}; {advice}"
    if problem["type"] == "missing":
        return f"{path} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}" if location else message


def _known_keys(model: type[Settings], location: tuple[int | str, ...]) -> list[str]:
    """Names that are allowed at `location`, following fields, lists and unions of settings models."""
    models: list[type[Settings]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        below = [found for parent in models for found in _models_in_field(parent, part)]
        models = below or models
    return sorted({name for parent in models for name in parent.model_fields})


def _models_in_field(model: type[Settings], name: str) -> list[type[Settings]]:
    field = model.model_fields.get(name)
    if field is None:
        return [model] if any(name == f.default for f in model.model_fields.values()) else []
    return list(_models_in_annotation(field.annotation))


def _models_in_annotation(annotation: Any) -> Iterable[type[Settings]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Settings):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models_in_annotation(argument)
