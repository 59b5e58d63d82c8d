"""Chat templates: Jinja text that comes with a model and is believed no further than it must be.

The environment is that of transformers, for which these templates are written, with bounds: a template reads plain data
and no Python objects, and neither writes nor builds more than a bounded length of text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from camelid.errors import UserError

_LLAMA2 = """\
{%- set turn = namespace(system='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' and loop.first -%}
        {%- set turn.system = '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- elif message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + (turn.system + message['content']).strip() + ' [/INST]' -}}
        {%- set turn.system = '' -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- else -%}
        {{- raise_exception('Llama 2 knows one system message at the beginning, then user and assistant') -}}
    {%- endif -%}
{%- endfor -%}
"""

NAMED_TEMPLATES = {"llama2": _LLAMA2}
"""Templates that may be named in place of their text, for models that came without one (Llama 2's released code)."""

_MAX_CHARACTERS = 1 << 24
"""Of what a template writes, and of every text that it builds on the way."""
_MAX_NUMBER_BITS = 1 << 10
_MAX_INDENT = 64
_WIDE_FORMAT = re.compile(r"\d{4}|\*")
_WIDENING_METHODS = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "translate"))
_WIDENING_FILTERS = ("center", "format", "wordwrap", "urlize", "xmlattr", "pprint")


def render_template(template: str, variables: Mapping[str, Any]) -> str:
    """What a template writes.

    Args:
        template: Jinja text, or a key of `NAMED_TEMPLATES`.
        variables: texts, numbers, truth values, None, lists and dictionaries of such, and nothing else.

    Raises:
        UserError: the template is no Jinja, refuses the variables, reaches for what is not its own, or writes too much.
    """
    try:
        pieces: list[str] = []
        num_characters = 0
        for piece in _compile(NAMED_TEMPLATES.get(template, template)).generate(variables):
            num_characters += len(piece)
            _check_length(num_characters)
            pieces.append(piece)
        return "".join(pieces)
    except TemplateError as error:
        reason = _in_one_line(error.message or "")
        raise UserError(f"the model's chat template stops: {reason}; change the messages, or the template") from error
    except Exception as error:
        # A template can bring Python to any error that plain values can.
        raise UserError(
            f"the model's chat template fails on these messages ({type(error).__name__}: {_in_one_line(str(error))}); "
            "change them, or the template"
        ) from error


def _in_one_line(reason: str) -> str:
    return " ".join(reason.split())


def _check_length(num_characters: int) -> None:
    if num_characters > _MAX_CHARACTERS:
        raise SecurityError(f"it writes more than {_MAX_CHARACTERS:,} characters")


class _Generator(CodeGenerator):
    """Compiles `a ~ b` to something that can be bounded."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja without a way to Python, and without cheap ways to fill the memory."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def concatenate(self, parts: Sequence[Any]) -> str:
        texts = [str(part) for part in parts]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("it raises to a power")
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        numbers = [side for side in (left, right) if isinstance(side, int)]
        if any(number.bit_length() > _MAX_NUMBER_BITS for number in numbers):
            raise SecurityError(f"it reckons with numbers of more than {_MAX_NUMBER_BITS:,} bits")
        if operator == "+":
            _check_length(sum(sizes))
        elif operator == "*":
            _check_length(max(sizes, default=0) * max(numbers, default=0))
        elif isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError("it pads text")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _WIDENING_METHODS)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE_FORMAT.search(value.__self__):
            raise SecurityError("it pads text")
        return wrapped

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        text = getattr(obj, "__self__", None)
        if isinstance(text, str) and obj.__name__ == "replace":
            _check_replacement(text, *args)
        return super().call(context, obj, *args, **kwargs)


def _check_replacement(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    _check_length(len(text) + text.count(str(old)) * len(str(new)))


class _Generation(Extension):
    """`{% generation %}`, which marks in training what the assistant says; here it writes its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Variables(Namespace):
    """Jinja's `namespace`, whose names cannot be Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"it stores the name {name!r}")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _format_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _make_dictionary(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    _check_replacement(str(text), old, new)
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _write_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise SecurityError("it pads text")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (width if isinstance(width, int) else len(width)) > _MAX_INDENT:
        raise SecurityError("it pads text")
    return do_indent(text, width, first, blank)


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.globals.clear()
    environment.globals.update(
        range=safe_range,
        dict=_make_dictionary,
        namespace=_Variables,
        raise_exception=_raise,
        strftime_now=_format_now,
    )
    for name in _WIDENING_FILTERS:
        del environment.filters[name]
    environment.filters.update(tojson=_write_json, replace=_replace, indent=_indent)
    return environment.from_string(template)
