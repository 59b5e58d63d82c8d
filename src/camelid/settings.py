"""The base of every settings model: frozen, documented field by field, and deaf to no key.

A settings tree comes from a TOML file, is changed by `--set a.b=c`, and is checked once, here. What a
model does not know is refused with the nearest name that it does know.
"""

import difflib
import itertools
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from camelid.errors import UserError

SettingsType = TypeVar("SettingsType", bound="Settings")
Tree = dict[str, Any]
Location = tuple[int | str, ...]

_LONGEST_SHOWN_VALUE = 60

# What pydantic's types of error ask for; names in braces are those of pydantic's context.
_EXPECTATIONS = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a table",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "multiple_of": "a multiple of {multiple_of}",
    "path_type": "a path",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_long": "text of at most {max_length} characters",
    "string_too_short": "text of at least {min_length} characters",
    "string_type": "text",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}


class Settings(BaseModel):
    """A frozen group of settings; the sentence under each field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_sentences(model: type[Settings]) -> dict[str, str]:
    """The sentence under each field, inherited fields among them.

    Pydantic would read them from the source whenever a settings module is imported, which takes longer than all else.
    """
    import ast
    import inspect
    import textwrap

    sentences: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if is_settings(base) and base is not Settings:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef)
            for field, below in itertools.pairwise(definition.body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    sentences[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(below.value))
    return sentences


def read_toml(path: Path) -> Tree:
    """Reads a TOML file; dates become text, as no setting is one.

    Raises:
        UserError: the file is missing, cannot be read, is not UTF-8 or is not TOML.
    """
    try:
        return _copy_tree(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder; name a TOML file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path} is not a settings file: its brackets are nested too deeply") from error
    except ValueError as error:  # not TOML, or an integer of thousands of digits, which Python refuses
        raise UserError(f"{path} is not valid TOML: {error}") from error


def apply_overrides(tree: Tree, overrides: Iterable[str]) -> Tree:
    """Returns a copy of `tree` in which each `a.b=c` has taken effect.

    The value is read as TOML (`3`, `true`, `[1, 2]`, `"text"`); what is not TOML is taken as a string. A whole number
    in the path is a place in a list: `corpus.sources.0.path=books`.

    Raises:
        UserError: an override has no `=`, names no key, or walks through something that is not a table.
    """
    result = _copy_tree(tree)
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not separator or not all(keys):
            raise UserError(f"--set {override!r} is not of the form section.key=value")
        node: Any = result
        for position, key in enumerate(keys[:-1]):
            node = _descend(node, key, ".".join(keys[: position + 1]), override)
        _assign(node, keys[-1], parse_value(text.strip()), override)
    return result


def validate(model: type[SettingsType], tree: Tree, where: str) -> SettingsType:
    """Builds `model` from `tree`; `where` names the file in messages.

    Raises:
        UserError: one sentence on what is wrong, with the nearest right name for an unknown key.
    """
    try:
        # As JSON and strictly: a list may become a tuple and text a path, but `true` is no number and "3" neither.
        return model.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(model, error)}") from error


def union_members(annotation: Any) -> list[Any]:
    """The alternatives of a union without None, or the annotation alone."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        alternatives = [item for item in typing.get_args(annotation) if item is not type(None)]
        return [member for item in alternatives for member in union_members(item)]
    return [annotation]


def is_settings(annotation: Any) -> bool:
    """Whether an annotation is a settings model."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _copy_tree(tree: Tree) -> Tree:
    copy: Tree = json.loads(json.dumps(tree, default=str))
    return copy


def _descend(node: Any, key: str, path: str, override: str) -> Any:
    child = node[_list_index(node, key, override)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise UserError(f"--set {override!r}: {path} is a value and has no keys below it")
    return child


def _assign(node: Any, key: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_list_index(node, key, override)] = value
    else:
        node[key] = value


def _list_index(items: list[Any], key: str, override: str) -> int:
    if not (key.isascii() and key.isdecimal()) or int(key[:18]) >= len(items):
        raise UserError(f"--set {override!r}: {key!r} is not a place in a list of {len(items)} (they count from 0)")
    return int(key)


def parse_value(text: str) -> Any:
    """What a person typed as a value: TOML where it is that, otherwise the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text would let it set more than one key.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _explain(model: type[Settings], error: ValidationError) -> str:
    """One sentence: what is wrong first of all, and where else something is."""
    # An unknown key usually explains the other errors, so it is told first.
    problems = sorted(_causes(error.errors()), key=lambda problem: problem["type"] != "extra_forbidden")
    paths = [_locate(model, problem["loc"])[0] for problem in problems]
    first = problems[0]
    suggestion = ""
    if first["type"] == "extra_forbidden":
        suggestion, advice = _suggest(model, first["loc"])
        message = f"unknown key {paths[0]!r}; {advice}"
    else:
        here = [problem for problem, path in zip(problems, paths, strict=True) if path == paths[0]]
        message = _say_problem(paths[0], here)
    others = [path for path in dict.fromkeys(paths[1:]) if path not in {"", paths[0], suggestion}]
    return f"{message}; also wrong: {', '.join(others)}" if others else message


def _causes(problems: Sequence[Any]) -> list[Any]:
    """The problems without those of lists that are only too short because something in them is wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if problem["type"] != "too_short" or not any(other[: len(place)] == place != other for other in places)
    ]


def _say_problem(path: str, problems: Sequence[Any]) -> str:
    """What is wrong at one place; several problems there are those of a union's members."""
    problem = problems[0]
    context = problem.get("ctx", {})
    if problem["type"] == "missing":
        return f"{path} is missing; add it"
    if problem["type"].startswith("union_tag"):
        key = f"{path}.{context['discriminator'].strip(chr(39))}".lstrip(".")
        if problem["type"] == "union_tag_not_found":
            return f"{key} is missing; add it"
        return f"{key} must be one of {context['expected_tags']}, not {context['tag']!r}"
    expectations = [_EXPECTATIONS[p["type"]].format(**p.get("ctx", {})) for p in problems if p["type"] in _EXPECTATIONS]
    subject = path or "it"
    if expectations:
        return f"{subject} must be {' or '.join(dict.fromkeys(expectations))}, not {_show(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{path}: {message[:1].lower()}{message[1:]}" if path else message


def _show(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "a table"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN_VALUE else text[: _LONGEST_SHOWN_VALUE - 3] + "..."


def _suggest(model: type[Settings], location: Location) -> tuple[str, str]:
    """The path that an unknown key stands for, empty where none is near, and the advice in words."""
    name = str(location[-1])
    parent, models = _locate(model, location[:-1])
    known = sorted({known for found in models for known in found.model_fields})
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if nearest:
        return f"{parent}.{nearest[0]}".lstrip("."), f"did you mean {nearest[0]!r}?"
    elsewhere = next(_find_key(model, name, ""), "")
    if elsewhere:
        return elsewhere, f"did you mean {elsewhere!r}?"
    return "", f"known are {', '.join(known)}"


def _locate(model: type[Settings], location: Location) -> tuple[str, list[type[Settings]]]:
    """The dotted path of a pydantic location without its union tags, and the settings models at its end."""
    keys: list[str] = []
    annotation: Any = model
    for part in location:
        members = union_members(annotation)
        if len(members) > 1:  # pydantic puts the tag or the name of the union's member in the location
            tagged = [member for member in members if _is_tagged(member, part)]
            annotation = tagged[0] if len(tagged) == 1 else None
            continue
        only = members[0]
        if is_settings(only):
            keys.append(str(part))
            field = only.model_fields.get(part)
            annotation = field.annotation if field else None
        elif typing.get_origin(only) in (dict, list, tuple, set, frozenset):
            keys.append(str(part))
            annotation = next((item for item in reversed(typing.get_args(only)) if item is not Ellipsis), None)
        # Anything else is the tag of a union inside a field that was not found, or names a validator.
    return ".".join(keys), [member for member in union_members(annotation) if is_settings(member)]


def _is_tagged(member: Any, tag: int | str) -> bool:
    """Whether a union's member is the one that pydantic calls `tag`: by class name or by its discriminator."""
    if not is_settings(member):
        return False
    literals = (typing.get_args(field.annotation) for field in member.model_fields.values() if field.annotation)
    return tag == member.__name__ or any(tag in values for values in literals)


def _find_key(annotation: Any, name: str, path: str) -> Iterator[str]:
    """Dotted paths of the fields of that name, wherever they are below a settings model."""
    for member in union_members(annotation):
        if is_settings(member):
            for field_name, field in member.model_fields.items():
                below = f"{path}.{field_name}".lstrip(".")
                if field_name == name:
                    yield below
                yield from _find_key(field.annotation, name, below)
