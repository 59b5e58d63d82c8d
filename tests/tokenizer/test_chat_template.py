"""Templates are believed no further than they must be."""

from typing import Any

import pytest

from camelid.errors import UserError
from camelid.tokenizer.chat_template import render_template

VARIABLES: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "number": 3, "text": "ab"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0]['content'] }}", "hello"),
        ("{{ messages[0].content }}", "hello"),
        ("a\n{% if true %}\n  b\n{% endif %}\nc", "a\n  b\nc"),
        ("   {% set x = 1 %}\n{{ x }}", "1"),
        ("{% for i in [7, 8, 9] %}{% if i == 8 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "79"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        (
            "{% set ns = namespace(n=0, m='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "6",
        ),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hello"}]'),
        ("{{ {'a': 'é<'} | tojson(indent=2) }}", '{\n  "a": "é<"\n}'),
        ("{{ dict(a=1)['a'] }}{{ text * 2 }}{{ text ~ number }}{{ number * 4 % 5 }}", "1ababab32"),
        (
            "{{ text.replace('a', 'xyz') }}{{ text | replace('b', '') }}{{ '%s!' % text }}{{ '{}?'.format(text) }}",
            "xyzbaab!ab?",
        ),
        ("{{ text | upper }}{{ text.startswith('a') }}{{ 'x\ny' | indent(2) }}{{ missing }}", "ABTruex\n  y"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(text) }}", "<ab>"),
        ("{{ 'a' if messages is defined and number is number else 'b' }}", "a"),
    ],
)
def test_what_templates_need_works(template: str, expected: str) -> None:
    assert render_template(template, VARIABLES) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['sys'] }}",
        "{{ range.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0.__class__.__mro__}' | format('') }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(_x=1) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
    ],
)
def test_a_template_gets_at_nothing_of_python(template: str) -> None:
    before = str(VARIABLES)
    with pytest.raises(UserError, match=r"the model's chat template (stops|fails)") as refusal:
        render_template(template, VARIABLES)
    assert "\n" not in str(refusal.value)
    assert str(VARIABLES) == before


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ '\t'.expandtabs(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a' | indent(10000000000, true) }}",
        "{{ [1] | tojson(indent=10000000000) }}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
        "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 1000000 %}{{ s | replace('a', s) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}",
        "{% for i in range(10000000000) %}a{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_fills_no_memory(template: str) -> None:
    with pytest.raises(UserError, match=r"the model's chat template (stops|fails)"):
        render_template(template, VARIABLES)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "stops: Expected"),
        ("{{ raise_exception('roles must\\nalternate') }}", "stops: roles must alternate; change the messages"),
        ("{{ messages[0]['content'] + 1 }}", r"fails on these messages \(TypeError"),
        ("{{ missing.part }}", "stops: 'missing' is undefined"),
        ("{{ 1 // 0 }}", "fails on these messages .ZeroDivisionError"),
        ("{% nonsense %}", "stops: Encountered unknown tag 'nonsense'"),
        ("{{ x | nonsense }}", "stops: No filter named 'nonsense'"),
        ("{" + "% if a %}{" * 3000, "stops|fails"),
        ("{{ " + "(" * 3000, "stops|fails"),
    ],
)
def test_a_template_that_does_not_work_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        render_template(template, VARIABLES)
    assert "\n" not in str(refusal.value)
