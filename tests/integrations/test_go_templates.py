"""Go templates: the same texts as Alertmanager, errors with a place, and limits."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.notification.go_templates import GoTemplateError, GoTemplates
from codomyrmex.integrations.notification.templates import CUT, MAX_RENDERED, TemplateError
from go_template_cases import CASES, NOTIFICATION
from hypothesis import given, settings
from hypothesis import strategies as st

TEMPLATES = GoTemplates()


def rendered(text, *, html=False, templates=TEMPLATES, **data):
    return templates.compile(text, html=html).render({**NOTIFICATION, **data})


def error_of(text, **options):
    with pytest.raises(GoTemplateError) as caught:
        rendered(text, **options)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{'html' if case.html else 'text'}: {case.name}")
def test_a_template_renders_as_in_alertmanager(case):
    if case.text is None:
        error_of(case.template, html=case.html)
    else:
        template = TEMPLATES.compile(case.template, html=case.html)
        assert template.render(NOTIFICATION) == case.text
        assert not template.errors


# Errors


ERRORS = {
    "a {{ foo 1 }}": "1, column 6: the function 'foo' is not known",
    "{{ toUper .Status }}": "1, column 4: the function 'toUper' is not known; did you mean toUpper?",
    "a\n  {{ .Status | }} {{ $x }}": "2, column 22: the variable $x is not defined; did you mean $?",
    'a {{ template "x" }}': "1, column 3: the template 'x' is not defined",
    "\n{{ if true }}\nx": "2, column 1: this block has no {{end}}",
    "{{ end }}": "1, column 1: unexpected {{end}}; nothing is open",
    "{{ .Status": "1, column 1: the action has no end; write {{ ... }}",
    '{{ "a }}': "1, column 4: the text has no closing quote",
    "{{/* a }}": "1, column 1: the comment has no end; write {{/* comment */}}",
    "{{ .Status ; }}": "1, column 12: unexpected ';' in an action",
    '{{ printf "a""b" }}': "1, column 14: unexpected '\"b\"' in an action",
    "{{ toUpper }}": "1, column 4: toUpper needs 1 arguments, got 0",
    "{{ 1i }}": "1, column 4: 1i is not a number",
    "{{ 9223372036854775808 }}": "1, column 4: 9223372036854775808 is too large for a number of 64 bits",
    "{{ call .Status }}": "1, column 4: call needs a function, and notifications have none",
    '{{ "\\z" }}': "1, column 4: \\z is not an escape; to print a backslash, write \\\\",
    '{{ .Status "x" }}': "1, column 1: Status is not a method, and cannot have arguments",
    "\n\n {{ .Alerts.Nope }}": "3, column 2: the type template.Alerts has no field Nope",
    "{{ range .Alerts }}\n{{ .Labels.a.b }}{{ end }}": "2, column 1: the type string has no field b",
    '{{ join "," .Status }}': "1, column 1: join needs a value of the type []string, got string",
    '{{ match "(" .Status }}': "1, column 1: '(' is not a regular expression of RE2: missing ): (",
    "{{ index .Alerts 7 }}": "1, column 1: the index must be from 0 to 2, got 7",
    '{{ eq 1 "1" }}': "1, column 1: int and string cannot be compared",
    '{{ dict "a" }}': "1, column 1: dict needs an even number of arguments",
    "{{ dict 1 2 }}": "1, column 1: the keys of dict must be strings, got int",
    '{{ tz "Moon" now }}': "1, column 1: unknown time zone Moon",
    '{{ humanizeDuration "long" }}': "1, column 1: humanizeDuration needs a number, got string",
    '{{ urlUnescape "%zz" }}': "1, column 1: invalid URL escape in '%zz'",
    "{{ slice 1 }}": "1, column 1: a value of the type int cannot be sliced",
    "{{ index .CommonLabels 1 }}": "1, column 1: the key must be a string, got int",
    '{{ "\\ud800" }}': "1, column 4: \\ud800 is not an escape; to print a backslash, write \\\\",
    '{{ "\\400" }}': "1, column 4: \\400 is not an escape; the largest is \\377",
    "{{ 1e999 }}": "1, column 4: 1e999 is too large for a number of 64 bits",
    "{{ 99999999999999999999 }}": "1, column 4: 99999999999999999999 is too large for a number of 64 bits",
    '{{ define "a" }}{{ else }}{{ end }}': "1, column 17: unexpected {{else}} in the definition of 'a'",
    '{{ if true }}{{ define "a" }}{{ end }}{{ end }}': "1, column 14: unexpected {{define}}; "
    "a template must not be defined in a block",
}
HTML_ERRORS = {
    "<script>{{ .Status }}</script>": "1, column 9: a value in a script is not supported",
    "<p onclick='{{ .Status }}'>": "1, column 13: a value in an attribute with a script is not supported",
    "<p style='a: \"{{ .Status }}\"'>": "1, column 15: a value in a text or URL of CSS is not supported",
    "<img srcset='{{ .Status }}'>": "1, column 14: a value in srcset is not supported",
    "{{ if true }}<p {{ else }}x{{ end }}>": "1, column 1: the branches of this if end in different places: "
    "tag, text",
}


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_says_what_is_wrong_and_where(text):
    assert str(error_of(text)) == f"line {ERRORS[text]}"


@pytest.mark.parametrize("text", HTML_ERRORS)
def test_what_is_not_supported_in_html_is_an_error(text):
    assert str(error_of(text, html=True)) == f"line {HTML_ERRORS[text]}"


def test_an_error_of_a_field_is_an_error_of_templates():
    error = error_of("{{ nope }}")
    assert isinstance(error, TemplateError)
    assert (error.file, error.line, error.column) == (None, 1, 4)


def test_an_error_in_a_file_has_its_name_line_and_column(tmp_path):
    (tmp_path / "a.tmpl").write_text('{{ define "a" }}\n{{ .Nope }}{{ end }}')
    templates = GoTemplates.load(["*.tmpl"], tmp_path)
    error = error_of('{{ template "a" . }}', templates=templates)
    assert str(error) == f"{tmp_path / 'a.tmpl'}:2:1: the type template.Data has no field Nope"


LATER = {
    'ok {{ if .Alerts.Resolved }}{{ template "slack.default.titel" }}{{ end }}': "29: the template "
    "'slack.default.titel' is not defined; did you mean slack.default.title?",
    "ok {{ if false }}{{ toUpper }}{{ end }}": "21: toUpper needs 1 arguments, got 0",
    "ok {{ if false }}{{ 1 2 }}{{ end }}": "23: only a function or a method can have arguments",
    "ok {{ if false }}{{ $x = 1 }}{{ end }}": "21: the variable $x is not defined here",
    "ok {{ if false }}{{ .CommonLabel.job }}{{ end }}": "21: the type template.Data has no field "
    "CommonLabel; did you mean CommonLabels?",
    "ok {{ if false }}{{ .Alerts.Firing.Resolved }}{{ end }}": "21: the type []template.Alert has no field "
    "Resolved",
    "ok {{ if 0 }}{{ range $i, $a := .Alerts }}{{ $a.Label.x }}{{ $i.x }}{{ end }}{{ end }}": "46: the type "
    "template.Alert has no field Label; did you mean Labels?",
    'ok {{ with index .Alerts 0 }}{{ if 0 }}{{ .StartsAt.Fmt "2006" }}{{ end }}{{ end }}': "43: the type "
    "time.Time has no field Fmt; did you mean Format?",
    'ok {{ define "a" }}{{ with .Labels.job }}{{ if 0.00 }}{{ .x }}{{ end }}{{ end }}{{ end }}'
    '{{ range .Alerts }}{{ template "a" . }}{{ end }}': "58: the type string has no field x",
    "ok {{ if false }}{{ (len .Alerts).x }}{{ end }}": "22: the type int has no field x",
    "ok {{ if false }}{{ $t := now }}{{ $t.Yeer }}{{ end }}": "36: the type time.Time has no field Yeer; "
    "did you mean Year?",
}


@pytest.mark.parametrize("text", LATER)
def test_what_fails_only_when_it_is_reached_is_known_before(text):
    template = TEMPLATES.compile(text)
    assert str(template.errors[0]) == f"line 1, column {LATER[text]}"
    assert template.render({**NOTIFICATION, "alerts": NOTIFICATION["alerts"][:1]}).strip() == "ok"


def test_html_that_go_refuses_to_escape_fails_when_it_is_rendered():
    template = TEMPLATES.compile("{{ if true }}<p {{ else }}x{{ end }}>", html=True)
    assert "end in different places" in str(template.errors[0])
    with pytest.raises(GoTemplateError, match="end in different places"):
        template.render(NOTIFICATION)


# Files


def test_files_are_read_in_order_and_later_definitions_replace_earlier_ones(tmp_path):
    (tmp_path / "1.tmpl").write_text('{{ define "a" }}1{{ end }}{{ define "b" }}1{{ end }}text of a file')
    (tmp_path / "2.tmpl").write_text('{{ define "a" }}2{{ end }}{{ define "b" }} {{ end }}')
    templates = GoTemplates.load(["[12].tmpl", "nothing*"], tmp_path)
    text = '{{ template "a" . }}{{ template "b" . }} {{ template "1.tmpl" . }}'
    assert rendered(text, templates=templates) == "21 text of a file"
    assert [path.name for path in templates.files] == ["1.tmpl", "2.tmpl"]


def test_a_file_replaces_a_default_template(tmp_path):
    (tmp_path / "a.tmpl").write_text('{{ define "__subject" }}mine{{ end }}')
    templates = GoTemplates.load([str(tmp_path / "a.tmpl")])
    assert rendered('{{ template "slack.default.title" . }}', templates=templates) == "mine"
    assert rendered('{{ template "slack.default.title" . }}').startswith("[FIRING:2] DiskFull eu-1")


def test_a_definition_in_a_field_replaces_a_file_only_there():
    templates = GoTemplates.parse(
        {"a": '{{ define "a" }}file{{ end }}{{ define "b" }}{{ template "a" }}{{ end }}'}
    )
    assert rendered('{{ define "a" }}field{{ end }}{{ template "b" }}', templates=templates) == "field"
    assert rendered('{{ template "b" }}', templates=templates) == "file"


def test_the_problems_of_all_files_are_reported(tmp_path):
    (tmp_path / "a.tmpl").write_text("{{ if }}")
    (tmp_path / "b.tmpl").write_text("\n {{ nope }}")
    (tmp_path / "c.tmpl").mkdir()
    (tmp_path / "d.tmpl").write_text("x" * 1_048_577)
    with pytest.raises(ConfigError) as caught:
        GoTemplates.load(["*.tmpl"], tmp_path)
    problems = caught.value.problems
    assert [(problem.file, problem.line, problem.column) for problem in problems[:2]] == [
        (str(tmp_path / "a.tmpl"), 1, 7),
        (str(tmp_path / "b.tmpl"), 2, 5),
    ]
    assert [problem.message for problem in problems[2:]] == [
        f"cannot be read: [Errno 21] Is a directory: '{tmp_path / 'c.tmpl'}'",
        "cannot be read: it has more than 1048576 bytes",
    ]


def test_an_undefined_template_in_a_definition_that_is_not_called_is_no_error():
    templates = GoTemplates.parse({"a": '{{ define "a" }}{{ template "nope" }}{{ end }}'})
    assert rendered("x", templates=templates) == "x"


def test_names_are_those_of_the_defaults_and_the_files():
    assert {"a", "b.tmpl", "__subject", "email.default.html"} <= GoTemplates.parse(
        {"b.tmpl": '{{ define "a" }}{{ end }}'}
    ).names


# What is newer than the Alertmanager that recorded the texts


PAIRS = "alertname=DiskFull, cluster=eu-1"
NEWER = {
    "{{ .GroupLabels }} {{ .GroupLabels.SortedPairs }}": f"{PAIRS} {PAIRS}",
    '{{ date "15:04" (index .Alerts 0).StartsAt }}': "03:04",
    '{{ (index .Alerts 0).StartsAt | tz "Europe/Berlin" | date "15:04 MST" }}': "04:04 CET",
    '{{ (index .Alerts 0).EndsAt | tz "America/New_York" | date "2006" }}': "0001",
    "{{ humanizeDuration 0 }} {{ humanizeDuration 93784.5 }}": "0s 1d 2h 3m 4s",
    '{{ humanizeDuration "3723" }} {{ humanizeDuration -61 }}': "1h 2m 3s -1m 1s",
    "{{ humanizeDuration 1.5 }} {{ humanizeDuration 0.0012 }}": "1.5s 1.2ms",
    "{{ with index .Alerts 1 }}{{ .EndsAt.Sub .StartsAt | humanizeDuration }}{{ end }}": "1h 0m 51s",
    '{{ humanizeDuration "+Inf" }} {{ humanizeDuration "NaN" }}': "+Inf NaN",
    "{{ with (index .Alerts 1).EndsAt }}{{ (.Sub .UTC).Abs }} {{ .Add -1 | .Sub }} {{ .Round 0 }}{{ end }}": (
        "0s 1ns 2026-12-31 23:00:00.5 +0000 UTC"
    ),
    '{{ trimSpace " \\t a b\\n" }}|': "a b|",
    "{{ toJson .GroupLabels }}": '{"alertname":"DiskFull","cluster":"eu-1"}',
    '{{ toJson "<é\\"" }} {{ toJson (list 1 1.5 true nil) }}': '"\\u003cé\\"" [1,1.5,true,null]',
    "{{ toJson (index .Alerts 2).StartsAt }}": '"2026-02-09T13:04:00Z"',
    "{{ toJson (index .GroupLabels.SortedPairs 1) }}": '{"Name":"cluster","Value":"eu-1"}',
    '{{ range append (list 1) 2 "x" }}{{ . }};{{ end }}': "1;2;x;",
    '{{ $d := dict "a" 1 "b" (list 2) }}{{ $d.a }}{{ index $d "b" }}{{ $d }}': "1[2]map[a:1 b:[2]]",
    '{{ (dict "a" 1).b }}': "<no value>",
    '{{ urlUnescape "a%20b+c" }}': "a b c",
    "{{ range $i := 3 }}{{ $i }}{{ end }}": "012",
    "{{ with .CommonLabels.nope }}{{ else with .Status }}{{ . }}{{ end }}": "firing",
    '{{ .NotificationReason }} {{ .RouteLabels.team }} {{ routeLabels "team" }}': "repeat ops ops",
    "{{ .GroupKey }} {{ .TruncatedAlerts }} {{ .Version }}": "{}:{} 2 4",
}


@pytest.mark.parametrize("text", NEWER)
def test_functions_and_fields_of_newer_versions(text):
    newer = {
        "notificationReason": "repeat",
        "routeLabels": {"team": "ops"},
        "groupKey": "{}:{}",
        "version": "4",
    }
    assert rendered(text, truncatedAlerts=2, **newer) == NEWER[text]


def test_now_and_since_use_the_clock():
    alert = {"status": "firing", "startsAt": (datetime.now(UTC) - timedelta(hours=2)).isoformat()}
    text = (
        '{{ with (index .Alerts 0).StartsAt }}{{ printf "%.1f" (since .).Hours }}{{ .Before now }}{{ end }}'
    )
    assert rendered(text, alerts=[alert]) == "2.0true"


def test_local_is_the_time_zone_of_the_machine(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert rendered('{{ (index .Alerts 0).StartsAt.Local.Format "15:04 MST -07" }}') == "12:04 JST +09"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_safe_urls_are_not_filtered():
    text = '<a href="{{ safeUrl .CommonAnnotations.url }}"><a href="/?x={{ safeUrl "a&b" }}">'
    assert rendered(text, html=True) == '<a href="javascript:alert%281%29"><a href="/?x=a&amp;b">'


# Values that are not those of a notification


@pytest.mark.parametrize("odd", [None, 3, "text", [], {}, [None], [3], {"a": 1}, [{}]])
def test_odd_data_fails_with_a_template_error_at_most(odd):
    template = TEMPLATES.compile(
        '{{ range .Alerts }}{{ .StartsAt }}{{ .Labels }}{{ end }}{{ template "__text_message" . }}'
    )
    with suppress(GoTemplateError):
        template.render(dict.fromkeys(NOTIFICATION, odd))


def test_lone_surrogates_are_replaced():
    text = rendered(
        "{{ .Status }} {{ toUpper .Receiver }} {{ len .Status }}", status="\ud800", receiver="\udcff"
    )
    assert text == "? ? 1"


# Limits


def test_a_long_text_is_cut():
    text = rendered('{{ range 10000 }}{{ printf "%100d" . }}{{ end }}')
    assert len(text) == MAX_RENDERED + len(CUT)
    assert text.endswith(CUT)


DOUBLED = '{{ $x := "ab" }}{{ range 1000 }}{{ $x = printf "%s%s" $x $x }}{{ end }}{{ $x }}'
NESTED = "{{ $x := list 1 }}{{ range 1000 }}{{ $x = list $x $x }}{{ end }}{{ print $x }}"


TWICE = 'printf "%s%s" $x $x'
CALLS = "".join(
    f'{{{{ define "{n}" }}}}{{{{ template "{n + 1}" }}}}{{{{ template "{n + 1}" }}}}{{{{ end }}}}'
    for n in range(40)
)
HOSTILE = [
    ("{{ range 1000000000000 }}{{ end }}", "takes more than 500000 steps"),
    ("{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}", "takes more than 500000 steps"),
    ('{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}', "more than 50 levels deep"),
    (
        '{{ define "a" }}{{ template "b" }}{{ end }}{{ block "b" . }}{{ template "a" }}{{ end }}',
        "more than 50 levels deep",
    ),
    (CALLS + '{{ define "40" }}{{ end }}{{ template "0" }}', "takes more than 500000 steps"),
    ('{{ printf "%1000000d" 1 }}', "a width or precision must not exceed 10000, got 1000000"),
    ('{{ printf "%.99999999f" 1.5 }}', "a width or precision must not exceed 10000"),
    ('{{ printf "%*d" 1000000 1 }}', "a width or precision must not exceed 10000, got 1000000"),
    (DOUBLED, "the text is longer than 131072 characters"),
    (DOUBLED.replace(TWICE, "join $x (stringSlice $x $x)"), "longer than 131072"),
    (DOUBLED.replace(TWICE, 'reReplaceAll "a" $x $x'), "longer than 131072"),
    (DOUBLED.replace(TWICE, "html $x $x"), "longer than 131072"),
    (NESTED, "nested too deeply"),
    (NESTED.replace("1000", "30"), "longer than 131072"),
    (NESTED.replace("print", "toJson"), "too large for JSON"),
    (NESTED.replace("1000", "30").replace("print", "toJson"), "too large for JSON"),
    ("{{ $x := list 1 }}{{ range 100000 }}{{ $x = append $x . }}{{ end }}", "more than 10000 values"),
    ("{{ if true }}" * 30 + "{{ end }}" * 30, "blocks must not be nested deeper than 18"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "parentheses must not be nested deeper than 40"),
    ("{{ 1" + " | print" * 5000 + " }}", "a pipeline must not have more than 40 commands"),
    ("{{ if 0 }}" + "{{ else if 0 }}" * 5000 + "{{ end }}", "must not have more than 40 {{else if}}"),
    ("{{ (index .Alerts 0).StartsAt.AddDate 10000 0 0 }}", "cannot be moved that far"),
    ("{{ (index .Alerts 0).EndsAt.Add -1 }}", "cannot be moved by"),
]


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_a_hostile_template_fails_with_an_error(text, message):
    start = time.process_time()
    assert message in str(error_of(text))
    assert time.process_time() - start < 3


def test_the_deepest_blocks_and_pipelines_that_are_allowed_compile():
    blocks = "{{ range list 1 }}" * 18 + "{{ end }}" * 18
    pipelines = "{{ 1" + " | print" * 39 + " }}" + "{{ " + "(" * 40 + "1" + ")" * 40 + " }}"
    chain = "{{ if false }}" + "{{ else if $x := 0 }}" * 40 + "{{ else }}x{{ end }}"
    assert rendered(blocks + pipelines + chain) == "11x"
    assert rendered(blocks.replace("range list 1", "with $x := 1")) == ""


def test_an_expression_takes_linear_time():
    text = '{{ reReplaceAll "(a+)+$" "b" .Status }}{{ match "(x+x+)+y" .Status }}'
    assert rendered(text, status="a" * 50_000 + "!" + "x" * 50_000) == "a" * 50_000 + "!" + "x" * 15_535 + CUT


def test_nothing_of_python_can_be_reached():
    for name in ("__class__", "__init__", "get", "values", "items", "_source", "fields", "moment"):
        assert "has no field" in str(error_of(f"{{{{ .{name} }}}}"))
        assert "has no field" in str(error_of(f"{{{{ (index .Alerts 0).StartsAt.{name} }}}}"))
    assert rendered("{{ .CommonLabels.__class__ }}{{ .CommonLabels.items }}") == ""


# Laws

PIECES = [
    *(
        "{{",
        "}}",
        "{{ ",
        " }}",
        "{{- ",
        " -}}",
        "{{/*",
        "*/}}",
        "|",
        "(",
        ")",
        ":=",
        "=",
        ",",
        " ",
        "\n",
        "$",
        "$x",
    ),
    *(
        ".",
        ".Alerts",
        ".Labels",
        ".x",
        '"',
        '"a"',
        "`",
        "`r`",
        "'",
        "'c'",
        "1",
        "-1.5e3",
        "0x",
        "\\",
        "end",
        "else",
    ),
    *(
        "if",
        "with",
        "range",
        "define",
        "template",
        "block",
        "break",
        "continue",
        "nil",
        "true",
        "len",
        "index",
    ),
    *(
        "printf",
        "eq",
        "html",
        "{{ end }}",
        "{{ else }}",
        "{{ if .Status }}",
        "{{ range .Alerts }}",
        "{{ . }}",
    ),
    *(
        '{{ define "a" }}',
        '{{ template "a" . }}',
        "<p ",
        "<a href=",
        ">",
        "<!--",
        "-->",
        "<style>",
        "<script>",
        "é",
    ),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=25).map("".join)


@given(TEXTS, st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_text_renders_or_fails_with_a_place(text, html):
    lines = text.split("\n")
    error = None
    try:
        rendered(text, html=html)
    except GoTemplateError as raised:
        error = raised
    if error is not None:
        assert error.file is None
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1


@given(st.text().filter(lambda text: "{{" not in text))
@settings(max_examples=40, deadline=None)
def test_text_without_actions_is_printed_as_it_is(text):
    assert rendered(text) == text.encode("utf-8", "replace").decode()[:MAX_RENDERED]


@given(st.text(), st.text())
@settings(max_examples=40, deadline=None)
def test_a_value_in_html_cannot_leave_its_place(value, other):
    text = rendered('<p title="{{ .Status }}">{{ .Receiver }}</p>', html=True, status=value, receiver=other)
    assert re.fullmatch('<p title="[^"<>]*">[^<>]*</p>', text, re.DOTALL)


@given(st.text(), st.text(alphabet="abc\\$1{}", max_size=5), st.text(alphabet="ab(|)*+?", max_size=6))
@settings(max_examples=40, deadline=None)
def test_expressions_never_fail_otherwise(text, replacement, pattern):
    template = TEMPLATES.compile("{{ reReplaceAll .GroupLabels.p .GroupLabels.r .Status }}")
    data = {"status": text, "groupLabels": {"p": pattern, "r": replacement}}
    try:
        template.render(data)
    except GoTemplateError as error:
        if "is not a regular expression" not in str(error):
            raise


# Defaults


@pytest.mark.parametrize("name", sorted(name for name in TEMPLATES.names if ".default." in name))
def test_a_default_template_renders(name):
    template = TEMPLATES.compile(f'{{{{ template "{name}" . }}}}', html=name.endswith("html"))
    if name == "pagerduty.default.instances":
        template = TEMPLATES.compile(f'{{{{ template "{name}" .Alerts.Firing }}}}')
    text = template.render(NOTIFICATION)
    assert "<no value>" not in text
    if name.split(".")[-1] in {"title", "message", "description", "subject", "html", "text", "summary"}:
        assert ("DiskFull" in text) == (name not in {"slack.default.text", "rocketchat.default.text"})
    template.render({})
