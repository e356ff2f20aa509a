"""The file of a pipeline: every mistake is found, and reported with its position."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.configuration.problems import ConfigError, Problem
from codomyrmex.integrations.durable import SQLiteStore
from codomyrmex.integrations.notification import AlertConfigError, load_alert_config
from codomyrmex.integrations.pipelines import PipelineConfig, PipelineConfigError, load_pipeline_config
from codomyrmex.integrations.pipelines.parts import Address, Size
from typer.testing import CliRunner

SOURCES = "sources: [{type: stdin}]"
SINKS = "sinks: [{type: jsonl, path: out.jsonl}]"
ALERTS = """
route: {receiver: chat}
receivers: [{name: chat, apprise_configs: [{url: 'json://127.0.0.1/'}]}]
"""
TOKEN = "t0ps3cr3t-and-long"


class Files:
    """Loads pipelines from a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, name: str = "p.yaml") -> Path:
        path = self.folder / name
        path.write_text(textwrap.dedent(text).strip(), encoding="utf-8")
        return path

    def load(self, text: str, **environ: str) -> PipelineConfig:
        return load_pipeline_config(self.write(text), environ=environ)

    def problems(self, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
        with pytest.raises(PipelineConfigError) as caught:
            self.load(text, **(environ or {}))
        return list(caught.value.problems)

    def problem(self, text: str, **environ: str) -> Problem:
        [problem] = self.problems(text, environ)
        return problem

    def of(self, section: str, part: str, **environ: str) -> Problem:
        """Return the one problem of a part, which stands in line 3 from column 5 on."""
        others = {"sources": SOURCES, "sinks": SINKS}
        rest = "\n".join(line for name, line in others.items() if name != section)
        return self.problem(f"# a pipeline\n{section}:\n  - {part}\n{rest}", **environ)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "good.alerts.yaml").write_text(ALERTS, encoding="utf-8")
    (tmp_path / "steps_here.py").write_text("NUMBER = 1\ndef step(event):\n    return event\n", "utf-8")
    (tmp_path / "broken_here.py").write_text("raise RuntimeError('token=abcdefgh')\n", "utf-8")
    (tmp_path / "exits_here.py").write_text("raise SystemExit(3)\n", "utf-8")
    return Files(tmp_path)


def place(problem: Problem) -> tuple[int | None, int | None, str]:
    return problem.line, problem.column, problem.path


def test_a_sound_file_is_read_with_all_its_parts(files):
    config = files.load(
        """
        sources:
          - {type: stdin, format: event, topic: here, metadata: {host: "${HOST:-web-1}", tags: [a]}}
          - {type: file, path: a.log, pattern: '(?P<x>.)', position: a.pos, unmatched: keep, interval: 1s}
          - {type: http, listen: "127.0.0.1:0", rate: 10, max_bytes: 1MB}
          - {type: sse, url: "http://${A}/", token: "${TOKEN}", topic: "a.*"}
          - {type: envoy_outlier_log, path: envoy.log}
        processors:
          - {type: filter, topic: "a.*", matchers: ['data.status=~"5..", metadata.x!="y"']}
          - {type: redact, keys: [pin], patterns: ['x\\d+']}
          - {type: set, metadata: {topic: "a.{data.status}", labels: {alertname: X}}, error: true}
          - {type: sample, share: 0.5, by: id}
          - {type: rate_limit, rate: 10/1s, by: topic}
          - {type: python, function: "steps_here:step"}
        sinks:
          - {type: structlog, format: json, where: ['severity="critical"']}
          - {type: jsonl, path: "${OUT}/a.jsonl", name: archive, max_size: 10MB, delivery: {overflow: block}}
          - {type: alerts, config: good.alerts.yaml}
          - {type: dashboard, listen: "[::1]:0"}
          - {type: sse, listen: "0.0.0.0:${PORT}", token: "${TOKEN}"}
        """,
        A="a.example",
        TOKEN=TOKEN,
        OUT="logs",
        PORT="8001",
    )
    assert [part.name for part in config.sources][2:4] == ["http[2]", "sse[3]"]
    assert len(config.steps) == 6
    assert [part.name for part in config.sinks] == [
        "structlog[0]",
        "archive",
        "alerts[2]",
        "dashboard[3]",
        "sse[4]",
    ]
    assert config.sources[0].config.metadata == {"host": "web-1", "tags": ["a"]}
    assert config.sources[3].config.url == "http://a.example/"
    assert config.sinks[1].config.path == "logs/a.jsonl"
    assert config.sinks[4].config.listen == Address("0.0.0.0", 8001)
    assert config.notes == ()


@pytest.mark.parametrize(
    ("part", "where", "message"),
    [
        ("{type: stdni}", (3, 12, "sources[0].type"), "unknown type 'stdni'; did you mean stdin?"),
        ("{path: a.log}", (3, 5, "sources[0]"), "a type is required; use one of alertmanager_webhook, "),
        ("stdin", (3, 5, "sources[0]"), "expected a mapping with a type, got text"),
        ("{type: stdin, topik: x}", (3, 19, "sources[0].topik"), "unknown key topik; did you mean topic?"),
        ("{type: stdin, format: xml}", (3, 27, "sources[0].format"), "event or text, got 'xml'"),
        ("{type: stdin, pattern: 'a'}", (3, 28, "sources[0].pattern"), "requires the format text, got json"),
        ("{type: stdin, topic: 'a..b'}", (3, 26, "sources[0].topic"), "empty"),
        ("{type: file}", (3, 5, "sources[0].path"), "is required"),
        ("{type: file, path: a, pattern: 'a('}", (3, 36, "sources[0].pattern"), "not a regular expression"),
        ("{type: file, path: a, pattern: 'a'}", (3, 36, "sources[0].pattern"), "has no named groups"),
        ("{type: file, path: a, interval: 1x}", (3, 37, "sources[0].interval"), "duration"),
        ("{type: file, path: a, position: a}", (3, 37, "sources[0].position"), "must not be the file"),
        ("{type: file, path: a, position: ''}", (3, 37, "sources[0].position"), "must be the path of a file"),
        ("{type: file, path: a, follow: maybe}", (3, 35, "sources[0].follow"), "expected true or false"),
        ("{type: http, listen: '127.0.0.1:99999'}", (3, 26, "sources[0].listen"), "expected an address like"),
        ("{type: http, listen: '0.0.0.0:1'}", (3, 26, "sources[0].listen"), "pass a token, or listen on 127"),
        ("{type: http, token: '', listen: '1'}", (3, 25, "sources[0].token"), "must be printable ASCII"),
        ("{type: http, rate: -1}", (3, 24, "sources[0].rate"), "must be a finite number greater than 0"),
        ("{type: http, max_bytes: 1QB}", (3, 29, "sources[0].max_bytes"), "expected a size like 10MB"),
        ("{type: http, max_bytes: 0}", (3, 29, "sources[0].max_bytes"), "must be an integer of at least 1"),
        ("{type: sse}", (3, 5, "sources[0].url"), "must begin with http://"),
        ("{type: sse, url: 'ftp://x/'}", (3, 22, "sources[0].url"), "must begin with http"),
        ("{type: sse, url: 'http://a:99999/'}", (3, 22, "sources[0].url"), "must begin with http"),
        ("{type: file, path: .}", (3, 24, "sources[0].path"), "must be a file, got a folder: "),
        ("{type: sse, url: '${NO}'}", (3, 22, "sources[0].url"), "the environment variable NO is not set"),
        ("{type: sse, url: '${'}", (3, 22, "sources[0].url"), "a ${ is not followed by a name"),
        ("{type: stdin, metadata: {a: '${NO}'}}", (3, 33, "sources[0].metadata.a"), "variable NO is not set"),
        ("{type: http, listen: '${NO}:80'}", (3, 26, "sources[0].listen"), "variable NO is not set"),
        ("{type: envoy_outlier_log}", (3, 5, "sources[0].path"), "is required"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_source_is_reported_with_its_position(files, part, where, message):
    problem = files.of("sources", part)
    assert place(problem) == where
    assert message in problem.message
    assert problem.file == str(files.folder / "p.yaml")


@pytest.mark.parametrize(
    ("part", "where", "message"),
    [
        ("{type: filtre}", (3, 12, "processors[0].type"), "did you mean filter?"),
        ("{type: filter, topic: 'a.**.'}", (3, 27, "processors[0].topic"), ""),
        ("{type: filter, matchers: 'a=b'}", (3, 30, "processors[0].matchers"), "expected a list, got text"),
        ("{type: filter, matchers: ['a=\"b']}", (3, 34, "processors[0].matchers[0]"), ""),
        ("{type: filter, matchers: ['a=~\"(\"']}", (3, 35, "processors[0].matchers[0]"), "not a regular"),
        ("{type: redact, patterns: [a, '(']}", (3, 34, "processors[0].patterns[1]"), "is not a regular expr"),
        ("{type: filter}", (3, 5, "processors[0].matchers"), "is required, or `topic`; without both"),
        ("{type: filter, matchers: []}", (3, 30, "processors[0].matchers"), "is required, or `topic`"),
        ("{type: filter, topic: '*'}", (3, 5, "processors[0].matchers"), "is required, or `topic`"),
        ("{type: set}", (3, 5, "processors[0].metadata"), "is required, or `error`"),
        ("{type: set, metadata: {}}", (3, 27, "processors[0].metadata"), "is required, or `error`"),
        ("{type: set, metadata: {a: '{data.'}}", (3, 31, "processors[0].metadata.a"), "'{' at character 1"),
        ("{type: set, metadata: {a: 'x {data.}'}}", (3, 31, "processors[0].metadata.a"), "for a brace"),
        ("{type: set, metadata: {a: 'x {}'}}", (3, 31, "processors[0].metadata.a"), "'{' at character 3"),
        ("{type: set, metadata: {a: 'x}'}}", (3, 31, "processors[0].metadata.a"), "'}' at character 2"),
        ("{type: set, metadata: {a: [b, {c: '{a..x}'}]}}", (3, 39, "processors[0].metadata.a[1].c"), "'{'"),
        ("{type: sample}", (3, 5, "processors[0].share"), "is required, such as 0.1"),
        ("{type: sample, share: 1, by: 'data.'}", (3, 34, "processors[0].by"), "'data.' has an empty part"),
        ("{type: sample, share: 1, by: ''}", (3, 34, "processors[0].by"), "must not be empty"),
        ("{type: rate_limit, rate: 1/1s, by: data..a}", (3, 40, "processors[0].by"), "has an empty part"),
        ("{type: filter, matchers: ['data..a=b']}", (3, 34, "processors[0].matchers[0]"), "empty part"),
        ("{type: filter, matchers: ['a=b, data. > 5']}", (3, 34, "processors[0].matchers[0]"), "empty"),
        ("{type: redact, keys: pin}", (3, 26, "processors[0].keys"), "expected a list, got text"),
        ("{type: set, metadata: [a]}", (3, 27, "processors[0].metadata"), "expected a mapping, got a list"),
        ("{type: set, error: 3}", (3, 24, "processors[0].error"), "expected true or false"),
        ("{type: sample, share: 1.5}", (3, 28, "processors[0].share"), "must be from 0 to 1, got 1.5"),
        ("{type: sample, share: .nan}", (3, 28, "processors[0].share"), "must be from 0 to 1, got nan"),
        ("{type: sample, share: half}", (3, 27, "processors[0].share"), "expected a number, got text"),
        ("{type: rate_limit}", (3, 5, "processors[0].rate"), "is required, such as 100/1s"),
        ("{type: rate_limit, rate: fast}", (3, 30, "processors[0].rate"), "is not a rate like"),
        ("{type: python}", (3, 5, "processors[0].function"), "must be package.module:function, got ''"),
        ("{type: python, function: json}", (3, 30, "processors[0].function"), "module:function, got 'json'"),
        ("{type: python, function: '..a:f'}", (3, 30, "processors[0].function"), "must be package.module:"),
        ("{type: python, function: 'no_such:f'}", (3, 30, "processors[0].function"), "No module named"),
        ("{type: python, function: 'json:no'}", (3, 30, "processors[0].function"), "has no attribute 'no'"),
        ("{type: python, function: 'steps_here:NUMBER'}", (3, 30, "processors[0].function"), "it is int"),
        ("{type: python, function: 'exits_here:f'}", (3, 30, "processors[0].function"), "SystemExit"),
        ("{type: python, function: 'broken_here:f'}", (3, 30, "processors[0].function"), "token=[redacted]"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_processor_is_reported_with_its_position(files, part, where, message):
    problem = files.problem(f"# a pipeline\nprocessors:\n  - {part}\n{SOURCES}\n{SINKS}")
    line, column, path = where
    assert (problem.line, problem.path) == (line, path)
    assert message in problem.message
    assert problem.column is not None
    assert problem.column >= column - 2  # the place inside a text


@pytest.mark.parametrize(
    ("part", "where", "message"),
    [
        ("{type: json}", (3, 12, "sinks[0].type"), "unknown type 'json'; did you mean jsonl?"),
        ("{type: jsonl}", (3, 5, "sinks[0].path"), "is required"),
        ("{type: jsonl, path: a, max_size: big}", (3, 38, "sinks[0].max_size"), "expected a size like 10MB"),
        ("{type: jsonl, path: a, keep: 0}", (3, 34, "sinks[0].keep"), "must be at least 1"),
        ("{type: jsonl, path: .}", (3, 25, "sinks[0].path"), "must be a file, got a folder: "),
        ("{type: jsonl, path: a, max_size: 0}", (3, 38, "sinks[0].max_size"), "must be at least 1 byte"),
        ("{type: jsonl, path: a, data: all}", (3, 34, "sinks[0].data"), "expected event or payload"),
        ("{type: jsonl, path: '${NO}/a'}", (3, 25, "sinks[0].path"), "variable NO is not set"),
        ("{type: jsonl, path: a, topic: 'a..'}", (3, 35, "sinks[0].topic"), ""),
        ("{type: jsonl, path: a, delivery: {queue: 1}}", (3, 39, "sinks[0].delivery.queue"), "unknown key"),
        ("{type: jsonl, path: a, delivery: {queue_size: 0}}", (3, 51, "sinks[0].delivery.queue_size"), ""),
        ("{type: jsonl, path: a, delivery: {batch_size: 0}}", (3, 51, "sinks[0].delivery.batch_size"), ""),
        ("{type: sse, buffer_size: -1}", (3, 30, "sinks[0].buffer_size"), "must be"),
        (f"{{type: sse, buffer_size: {10**30}}}", (3, 30, "sinks[0].buffer_size"), "must be at most"),
        ("{type: jsonl, path: a, delivery: {overflow: disk}}", (3, 49, "sinks[0].delivery.overflow"), ""),
        ("{type: jsonl, path: a, where: severity}", (3, 35, "sinks[0].where"), "expected a list, got text"),
        ("{type: structlog, level: loud}", (3, 30, "sinks[0].level"), "expected debug or info"),
        ("{type: opentelemetry, delivery: {queue_size: 1}}", (3, 37, "sinks[0].delivery"), "has no queue"),
        ("{type: opentelemetry, mode: all}", (3, 33, "sinks[0].mode"), "expected auto or span_event"),
        ("{type: alerts}", (3, 5, "sinks[0].config"), "is required: the path of the file"),
        ("{type: dashboard, listen: '0.0.0.0:80'}", (3, 31, "sinks[0].listen"), "pass a token, or listen on"),
        ("{type: dashboard, listen: 'example.org'}", (3, 32, "sinks[0].listen"), "expected an address like"),
        ("{type: dashboard, listen: '${L}'}", (3, 31, "sinks[0].listen"), "got 'nonsense'"),
        ("{type: sse, listen: '80', token: ''}", (3, 38, "sinks[0].token"), "must be printable ASCII"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_sink_is_reported_with_its_position(files, part, where, message):
    problems = files.problems(f"# a pipeline\nsinks:\n  - {part}\n{SOURCES}", {"L": "nonsense"})
    line, column, path = where
    assert message in problems[0].message
    assert (problems[0].line, problems[0].path) == (line, path)
    assert abs((problems[0].column or 0) - column) <= 2  # the place inside a text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; sources and sinks are required"),
        ("[a]", "expected a mapping, got a list"),
        ("a: [", "invalid YAML: while parsing a flow node"),
        (f"{SOURCES}\n{SINKS}\nsinc: []", "unknown key sinc; did you mean sinks?"),
        (f"{SOURCES}\n{SINKS}\n{SINKS}", "sinks is given twice, first on line 2"),
        (SOURCES, "sinks: at least one is required"),
        (f"sources: []\n{SINKS}", "sources: at least one is required"),
        (f"{SOURCES}\nsinks: {{type: jsonl}}", "expected a list, got a mapping"),
        (
            f"sources: [{{type: stdin}}, {{type: stdin}}]\n{SINKS}",
            "only one source can read the standard input",
        ),
    ],
)
def test_a_mistake_in_the_whole_is_reported(files, text, message):
    assert message in str(files.problem(text))


@pytest.mark.parametrize("text", [ALERTS, "receivers: [{name: x, slack_configs: [{channel: a}]}]"])
def test_a_configuration_of_alerts_is_no_pipeline_and_the_other_way_round(files, text):
    message = "this is a configuration of alerts and not a pipeline; check it with `alerts check`"
    assert message in files.problem(text).message
    path = files.write(f"{SOURCES}\n{SINKS}")
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(path)
    [problem] = caught.value.problems
    assert (
        "this is a pipeline, not an alert configuration; use `codomyrmex-streaming check`" in problem.message
    )


def test_a_state_is_no_configuration(files):
    path = files.folder / "state.db"

    async def create() -> None:
        async with SQLiteStore(path):
            pass

    asyncio.run(create())
    for load in (load_alert_config, load_pipeline_config):
        with pytest.raises(ConfigError) as caught:
            load(path)
        [problem] = caught.value.problems
        assert "this is an SQLite database, such as the state of alerts" in problem.message


def test_a_path_that_is_too_long_is_no_traceback(files):
    config = files.load(f"{SOURCES}\nsinks: [{{type: jsonl, path: {'a' * 5_000}}}]")
    assert len(config.sinks) == 1


def test_two_sinks_cannot_have_the_same_name(files):
    problems = files.problems(
        f"{SOURCES}\nsinks: [{{type: structlog, name: a}}, {{type: structlog, name: a}}]", {}
    )
    assert [problem.path for problem in problems] == ["sinks[0]", "sinks[1]"]
    assert "2 sinks have the name 'a'; names must be unique" in problems[0].message


def test_two_parts_cannot_listen_on_the_same_address(files):
    sources = "sources: [{type: http, listen: 'localhost:9000'}, {type: http, listen: '127.0.0.1:9001'}]"
    sinks = "sinks: [{type: sse, listen: '127.0.0.1:9001'}, {type: dashboard, listen: '127.0.0.1:0'}]"
    problem = files.problem(f"{sources}\n{sinks}")
    assert (problem.path, problem.message) == (
        "sinks[0].listen",
        "http[1] listens on 127.0.0.1:9001 too",
    )


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(files):
    problems = files.problems("""
        sources:
          - {type: stdin, format: csv}
          - {type: file}
        processors:
          - {type: sample, share: 2}
          - {type: python, function: "nowhere:f"}
        sinks:
          - {type: jsonl, path: "${NO}"}
          - {type: nothing}
          - {type: alerts, config: none.yaml}
        """)
    assert [problem.line for problem in problems if problem.file == str(files.folder / "p.yaml")] == [
        2, 3, 5, 6, 8, 9,
    ]  # fmt: skip
    assert any("none.yaml" in (problem.file or "") for problem in problems)


def test_a_mistake_in_an_alert_file_is_reported_with_its_position_in_that_file(files):
    files.write(ALERTS.replace("receiver: chat}", "receiver: nobody}"), "bad.alerts.yaml")
    problem = files.problem(f"{SOURCES}\nsinks: [{{type: alerts, config: bad.alerts.yaml}}]")
    assert problem.file == str(files.folder / "bad.alerts.yaml")
    assert (problem.line, problem.path) == (1, "route.receiver")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no endless file")
def test_a_device_or_a_huge_file_is_not_read(files):
    huge = files.folder / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(20_000_000_000)  # it takes no space
    for path, message in ((Path("/dev/zero"), "is a device"), (huge, "is larger than 10 MB")):
        for load in (load_alert_config, load_pipeline_config):
            with pytest.raises(ConfigError, match=f"the file {message}"):
                load(path)


@pytest.mark.parametrize("text", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_problem_too(files, text):
    path = files.folder / "p.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(PipelineConfigError, match=r"cannot be read: No such file|not UTF-8 text, at byte 0"):
        load_pipeline_config(path)


def test_secrets_are_in_no_repr_and_no_problem(files):
    config = files.load(
        f"""
        sources: [{{type: sse, url: 'http://u:{TOKEN}@a/', token: '${{T}}'}}, {{type: http, token: '${{T}}'}}]
        sinks: [{{type: sse, token: '{TOKEN}'}}]
        """,
        T=TOKEN,
    )
    assert TOKEN not in repr(config)
    problem = files.problem(f"sources: [{{type: sse, url: '{TOKEN}'}}]\n{SINKS}")
    assert TOKEN not in str(problem)


def test_parts_are_the_same_where_their_name_and_file_are_wherever_they_stand(files):
    one, two = "{type: structlog, name: a}", "{type: structlog, name: b}"
    first = files.load(f"{SOURCES}\nsinks: [{one}, {two}]")
    second = files.load(f"{SOURCES}\nsinks: [{two}, {one}]")
    assert set(map(repr, first.sources)) == set(map(repr, second.sources))
    assert list(first.sinks) == list(reversed(second.sinks))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("8000", "127.0.0.1", 8000), (":80", "0.0.0.0", 80), ("[::1]:80", "::1", 80), ("a.b:1", "a.b", 1)],
)
def test_an_address_is_a_host_and_a_port(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("10MB", 10_000_000), ("1 KiB", 1024), ("2GiB", 2 << 30), ("5B", 5)]
)
def test_a_size_has_a_unit(text, size):
    assert Size.parse(text) == size


# The command


def check(path: Path, *options: str, code: int) -> Any:
    result = CliRunner().invoke(app, ["check", str(path), *options], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_check_says_what_a_sound_file_has(files):
    path = files.write(f"{SOURCES}\nprocessors: [{{type: redact}}, {{type: sample, share: 1}}]\n{SINKS}")
    result = check(path, code=0)
    assert result.stdout == ""
    assert result.stderr == f"{path}: 1 source, 2 processors, 1 sink, no problems\n"
    assert json.loads(check(path, "--json", code=0).stdout) == {"ok": True, "errors": [], "notes": []}
    assert not (files.folder / "out.jsonl").exists()  # nothing was opened


def test_check_tells_each_problem_in_a_line_that_editors_can_read(files):
    path = files.write(f"sources: [{{type: stdin, formt: json}}]\n{SINKS}")
    result = check(path, code=1)
    assert result.stderr.startswith(
        f"{path}:1:25: error: sources[0].formt: unknown key formt; did you mean format"
    )
    found = json.loads(check(path, "--json", code=1).stdout)
    assert not found["ok"]
    assert [found["errors"][0][name] for name in ("line", "column", "path")] == [1, 25, "sources[0].formt"]


def test_check_tells_the_notes_of_an_alert_file(files):
    files.write(f"{ALERTS}\ntemplates: [a.tmpl]", "noted.yaml")
    path = files.write(f"{SOURCES}\nsinks: [{{type: alerts, config: noted.yaml}}]")
    assert "note: templates[0]: no file matches this" in check(path, code=0).stderr
    assert len(json.loads(check(path, "--json", code=0).stdout)["notes"]) == 1


def test_check_and_run_of_no_file_are_wrong_usage(files):
    assert "does not exist" in check(files.folder / "none.yaml", code=2).stderr
    result = CliRunner().invoke(app, ["run"])
    assert result.exit_code == 2
