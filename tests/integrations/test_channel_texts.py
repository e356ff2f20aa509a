"""The texts of channels: values of the environment in them, and templates."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any

import markdown
import pytest
from codomyrmex.integrations import DeliveryError, MissingExtraError
from codomyrmex.integrations.configuration.environment import ExpansionError, MissingVariableError, expand
from codomyrmex.integrations.notification import ChannelError
from codomyrmex.integrations.notification.templates import (
    CUT,
    MAX_RENDERED,
    TemplateError,
    compile_template,
    escape,
)
from hypothesis import given
from hypothesis import strategies as st

ENVIRON = {"HOST": "db-1", "EMPTY": "", "_a1": "x", "TRICKY": r"${HOST} \1 $${"}


# The environment


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("json://${HOST}/", "json://db-1/"),
        ("${HOST}${HOST}", "db-1db-1"),
        ("${_a1}", "x"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${MISSING:-other}", "other"),
        ("${MISSING:-}", ""),
        ("${MISSING:-a:-b$c{}", "a:-b$c{"),
        ("${HOST:-other}", "db-1"),
        ("$${HOST}", "${HOST}"),
        ("${TRICKY}", r"${HOST} \1 $${"),  # a value is not read again
        ("$HOST a$b 100$ {HOST} $", "$HOST a$b 100$ {HOST} $"),
        ("", ""),
    ],
)
def test_references_are_replaced_by_environment_variables(text, filled):
    assert expand(text, ENVIRON) == filled


def test_the_environment_is_that_of_the_process_where_none_is_given(monkeypatch):
    monkeypatch.setenv("A_VARIABLE_OF_THIS_TEST", "here")
    assert expand("${A_VARIABLE_OF_THIS_TEST}") == "here"


def test_a_variable_that_is_missing_is_named_and_nothing_else_is_shown():
    with pytest.raises(MissingVariableError, match="MISSING") as caught:
        expand("s3cret ${HOST} ${MISSING} ${OTHER}", {"HOST": "s3cret too"})
    assert caught.value.variable == "MISSING"
    assert isinstance(caught.value, (ChannelError, ValueError))
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(caught.value.__traceback__), capture_locals=True
    )
    texts = [str(caught.value), *(str(frame.locals) for frame in frames if frame.filename != __file__)]
    assert "s3cret" not in "".join(texts)


@pytest.mark.parametrize(
    "text", ["${", "${}", "${HOST", "${1A}", "${A B}", "${A:-${HOST}}", "${Ä}", "${A:x}"]
)
def test_an_invalid_reference_is_refused(text):
    with pytest.raises(ExpansionError) as caught:
        expand(f"s3cret{text}", ENVIRON)
    assert isinstance(caught.value, ValueError)
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_text_without_a_reference_is_unchanged(text):
    if "${" not in text:
        assert expand(text, {}) == text


def test_the_environment_needs_no_heavy_package():
    code = (
        "import sys\n"
        "from codomyrmex.integrations.configuration.environment import expand\n"
        "from codomyrmex.integrations.notification.templates import compile_template\n"
        "assert not {'apprise', 'jinja2', 'requests'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=os.environ)


# Templates


def render(source: str, format: str = "text", /, **values: Any) -> str:  # noqa: A002 - as channels call it
    return compile_template(source, format).render(**values)


def test_a_template_is_filled_in():
    when = datetime(2026, 11, 25, 12, tzinfo=UTC)
    source = "{{ a.b[0] }} {{ when.strftime('%H:%M') }}{% if c %} and {{ c|upper }}{% endif %}"
    assert render(source, a={"b": [1]}, when=when, c="more") == "1 12:00 and MORE"


def test_what_is_missing_is_empty_at_any_depth():
    assert render("[{{ a }}{{ a.b.c }}{{ d.e[0].f }}{{ d.e|default('none') }}]", d={}) == "[none]"


def test_a_key_goes_before_a_method_of_its_name():
    assert (
        render("{{ d.items }} {{ d.values }} {{ e.items()|list }}", d={"items": 3, "values": 4}, e={})
        == "3 4 []"
    )


@pytest.mark.parametrize(
    ("format", "shown"),
    [
        ("text", "<b>*x*</b> & _y_ [z](u)"),
        ("html", "&lt;b&gt;*x*&lt;/b&gt; &amp; _y_ [z](u)"),
        ("markdown", r"&lt;b&gt;\*x\*&lt;/b&gt; &amp; \_y\_ \[z\](u)"),
    ],
)
def test_values_are_escaped_for_the_format_and_the_template_is_not(format, shown):  # noqa: A002 - as above
    source = "<i>**{{ value }}**</i>"
    assert render(source, format, value="<b>*x*</b> & _y_ [z](u)") == f"<i>**{shown}**</i>"


@pytest.mark.parametrize("format", ["text", "html", "markdown"])
def test_what_is_called_safe_is_printed_as_it_is(format):  # noqa: A002 - as above
    assert render("{{ value|safe }}", format, value="<b>*x*") == "<b>*x*"


@pytest.mark.parametrize("format", ["html", "markdown"])
def test_what_a_macro_gives_is_escaped_once(format):  # noqa: A002 - as above
    source = "{% macro bold(x) %}<b>{{ x }}</b>{% endmacro %}{{ bold(value) }}"
    assert render(source, format, value="a & *b*") == f"<b>{escape('a & *b*', format)}</b>"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("# a\n- b\n+ c\n1. d\n2) e\n=== f", "\\# a\n\\- b\n\\+ c\n1\\. d\n2\\) e\n\\=== f"),
        ("  - a", "  \\- a"),
        ("db-1.example.org 1.5 C# a+b", "db-1.example.org 1.5 C# a+b"),  # nothing special there
        ("`a` ~~b~~ | c \\", r"\`a\` \~\~b\~\~ \| c \\"),
        ("> a", "&gt; a"),
        ('"it\'s"', '"it\'s"'),
    ],
)
def test_markdown_is_escaped_where_it_means_something(text, escaped):
    assert escape(text, "markdown") == escaped


@given(st.text(alphabet="ab1 \n#*_`[]()<>&|~\\-+=.!"))
def test_escaped_markdown_reads_as_the_text_it_was(text):
    shown = markdown.markdown(escape(text, "markdown"), extensions=["tables", "nl2br"])
    tags = {part.split(">")[0].strip("/ ") for part in shown.split("<")[1:]}
    assert tags <= {"p", "br", "pre", "code"}  # what is indented is code, and shown as it is


def test_a_syntax_error_has_its_line():
    with pytest.raises(TemplateError, match="line 3") as caught:
        compile_template("a\nb\n{% if %}\n")
    assert caught.value.line == 3
    assert isinstance(caught.value, (DeliveryError, ValueError))


@pytest.mark.parametrize(
    "source", ["{{ a|nosuchfilter }}", "{% nosuchtag %}", "{{ a", "{% for x in %}", "(" + "{{ (" * 5]
)
def test_an_invalid_template_is_refused_when_it_is_compiled(source):
    with pytest.raises(TemplateError):
        compile_template(source)


@pytest.mark.parametrize(
    "expression", ["1 / 0", "'a' + 1", "'a'.nosuch()", "range(10 ** 2)", "x()", "[1]|sum(start='')"]
)
def test_an_error_while_rendering_has_its_line(expression):
    with pytest.raises(TemplateError, match="line 2") as caught:
        render(f"a\n{{{{ {expression} }}}}\nb", x=3)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(10000000000) %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 10000000000 * [1] }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_what_would_take_all_time_or_memory_is_stopped(source):
    with pytest.raises(TemplateError):
        render(source)


def test_what_is_too_long_is_cut_with_a_mark():
    text = render("{% for x in range(9999) %}{{ a }}{% endfor %}", a="x" * 100)
    assert text == "x" * MAX_RENDERED + CUT
    assert render("{{ a }}", a="x" * MAX_RENDERED) == "x" * MAX_RENDERED


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ d.update(a=1) }}",
        "{{ l.append(1) }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_cannot_get_out_or_change_values(source):
    d: dict[str, int] = {}
    values: list[int] = []
    try:
        shown = render(source, x=object(), d=d, l=values)
    except TemplateError:
        shown = ""
    assert (shown, d, values) == ("", {}, [])


def test_an_unknown_format_or_a_source_that_is_not_a_str_is_refused():
    with pytest.raises(ValueError, match="text, markdown, html"):
        compile_template("a", "xml")
    with pytest.raises(TypeError, match="must be a string, got int"):
        compile_template(3)  # type: ignore[arg-type]


def test_without_jinja_the_error_names_the_package():
    code = (
        "import sys\n"
        "sys.modules['jinja2'] = None\n"
        "from codomyrmex.integrations.notification.templates import compile_template\n"
        "try:\n"
        "    compile_template('a')\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(MissingExtraError.__name__)
    assert "codomyrmex-streaming[alerts]" in done.stdout


@pytest.mark.parametrize("kind", ["text", "markdown", "html"])
def test_a_template_that_is_nested_deeply_is_refused_at_once(kind):
    assert compile_template("{{ a" + ".b" * 20 + " }}", kind).render(a={}) == ""
    began = time.thread_time()
    with pytest.raises(TemplateError, match=r"^line 2: must not be nested deeper than 30$"):
        compile_template("\n{{ a" + ".b" * 190 + " }}", kind)
    assert time.thread_time() - began < 0.5  # without the limit, this one takes more than a second
