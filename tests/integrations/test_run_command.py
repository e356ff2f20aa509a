"""The command `run` in-process: its reports, its errors, its signals and its reloads."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli import pipelines
from codomyrmex.integrations.cli.app import app
from rich.status import Status
from rich.text import Text
from typer.testing import CliRunner, Result

PATIENCE = 20.0  # seconds
SOURCE = "sources: [{type: file, path: in.log, format: json, follow: false}]"
FOLLOWED = "sources: [{type: file, path: in.log, format: json, from_start: true, interval: 10ms}]"
SINK = "sinks: [{type: jsonl, path: out.jsonl, name: out, delivery: {batch_age: 1ms}}]"


class Folder:
    """A folder with the files of a pipeline."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str) -> None:
        new = self.path / "p.yaml.new"
        new.write_text(text, encoding="utf-8")
        new.replace(self.path / "p.yaml")

    def put(self, text: str) -> None:
        with (self.path / "in.log").open("a", encoding="utf-8") as file:
            file.write(text)

    def data(self, name: str = "out.jsonl") -> list[Any]:
        path = self.path / name
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [json.loads(line)["data"] for line in lines]

    def run(self, *options: str, code: int = 0, **environ: str) -> Result:
        environ = {"COLUMNS": "200", **environ}
        result = CliRunner().invoke(app, ["run", str(self.path / "p.yaml"), *options], env=environ)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def run_with(self, script: Callable[[], None], *options: str, code: int = 0, **environ: str) -> Result:
        """Run until a script on another thread has ended."""
        ended = threading.Event()

        def stop_after() -> None:
            try:
                script()
            finally:
                if not ended.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=stop_after)
        thread.start()
        try:
            return self.run(*options, code=code, **environ)
        finally:
            ended.set()
            thread.join()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def folder(tmp_path):
    handler = signal.signal(signal.SIGTERM, lambda *_: None)  # for a script that fails before the start
    yield Folder(tmp_path)
    signal.signal(signal.SIGTERM, handler)


def test_the_report_is_in_sentences(folder):
    (folder.path / "steps_of_run.py").write_text(
        "def twice(event):\n    return [event, event]\n"
        "def fail(event):\n    assert event.data['status'] == 500\n    return event\n"
    )
    folder.write(
        f"""{SOURCE}
processors:
  - {{type: filter, matchers: ['data.status=~"5.."']}}
  - {{type: python, function: 'steps_of_run:fail'}}
  - {{type: python, function: 'steps_of_run:twice'}}
sinks:
  - {{type: jsonl, path: out.jsonl, name: archive}}
  - {{type: jsonl, path: /dev/full, name: full, delivery: {{max_attempts: 1}}}}
"""
    )
    folder.put('{"status": 500}\nnonsense\n{"status": 200}\n{"status": 503}')
    result = folder.run(code=1)
    assert folder.data() == [{"status": 500}, {"status": 500}]
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if "attempt" not in line] == [
        "3 events received, 2 sent to the sinks",
        "  file[0]: invalid lines: 1",
        "  filter[0]: 1 filtered out",
        "  python[1]: 1 lost because the step failed",
        "  1 added by steps that returned several events for one",
        "  archive: 2 events delivered",
        "  full: 0 events delivered, 2 failed",
    ]


def test_invalid_lines_are_shown_and_strict_makes_them_a_failure(folder, caplog):
    folder.write(f"{SOURCE}\n{SINK}")
    folder.put("1\nnonsense\n")
    folder.run()
    assert "source file[0], line 2: skipped, DecodeError: JSON is malformed" in caplog.text
    result = folder.run("--strict", "--json", code=1)
    assert not json.loads(result.stdout)["ok"]
    folder.write(f"{SOURCE.replace('format: json', 'format: text')}\n{SINK}")
    folder.run("--strict")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "x"])
def test_a_time_that_is_none_is_wrong_usage(folder, seconds):
    folder.write(f"{SOURCE}\n{SINK}")
    assert "drain" in folder.run("--drain", seconds, code=2).stderr


def test_the_report_as_json_adds_up(folder):
    folder.write(f"{SOURCE}\n{SINK}")
    folder.put("1\n2\n")
    report = json.loads(folder.run("--json").stdout)
    assert (report["ok"], report["received"], report["published"]) == (True, 2, 2)
    assert report["sinks"]["out"]["delivered"] == 2


def test_events_on_stdout_are_not_mixed_with_the_report(folder, capfdbinary):
    folder.write(f"{SOURCE}\nsinks: [{{type: jsonl, path: '-', data: payload}}]")
    folder.put("1\n2\n")
    result = folder.run("--json")
    assert capfdbinary.readouterr().out == b"1\n2\n"
    assert json.loads(result.stderr)["ok"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [{type: stdni}]", "p.yaml:1:18: error: sources[0].type: unknown type 'stdni'"),
        (f"{SOURCE}\n{SINK.replace('out.jsonl', 'p.yaml/a')}", "the pipeline cannot start: "),
        (f"{SOURCE.replace('in.log', 'none.log')}\n{SINK}", "none.log: No such file or directory"),
    ],
)
def test_a_wrong_file_is_reported_without_a_traceback(folder, text, message):
    folder.write(text)
    folder.put("1\n")
    result = folder.run(code=1)
    assert message in result.stderr
    assert result.stdout == ""


def test_an_address_in_use_is_one_sentence_or_json(folder):
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        folder.write(f"{FOLLOWED}\nsinks: [{{type: sse, listen: '{port}'}}]")
        message = f"the pipeline cannot start: cannot listen on 127.0.0.1:{port}: Address already in use"
        message += " (sink sse[0]: open() failed)"
        assert folder.run(code=1).stderr == f"{message}\n"
        assert json.loads(folder.run("--json", code=1).stdout)["errors"][0]["message"] == message


def test_sigterm_drains_and_addresses_are_printed(folder):
    folder.write(f"{FOLLOWED}\n{SINK[:-1]}, {{type: sse, listen: '127.0.0.1:0'}}]")
    folder.put("1\n2\n")
    result = folder.run_with(lambda: until(lambda: folder.data() == [1, 2]))
    assert "sse[1]: http://127.0.0.1:" in result.stderr
    assert "stopping; press Ctrl-C again to drop queued events" in result.stderr
    assert "2 events received, 2 sent to the sinks" in result.stderr


def test_sighup_loads_the_file_again_and_mistakes_change_nothing(folder, monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(pipelines, "print_message", lambda text, _style="": messages.append(text))
    folder.write(f"{FOLLOWED}\n{SINK}")
    folder.put("1\n")

    def load(text: str, message: str) -> None:
        folder.write(text)
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: any(message in each for each in messages))

    def reload() -> None:
        until(lambda: folder.data() == [1])
        load("sources: [{type: stdin, topik: a}]", "the pipeline continues unchanged")
        load(
            f"{FOLLOWED}\n{SINK.replace('out.jsonl', 'p.yaml/a')}",
            "not all parts of the new pipeline could start: ",
        )
        new = FOLLOWED.replace("}]", "}, {type: file, path: b.log}]")
        load(
            f"{new}\n{SINK.replace('out.jsonl', 'new.jsonl')}",
            "p.yaml was reloaded; removed: out; added: file[1], out",
        )
        folder.put("2\n")
        until(lambda: folder.data("new.jsonl") == [2])

    stderr = folder.run_with(reload, "--no-watch").stderr
    assert "error: sources[0].topik: unknown key topik" in stderr


def test_a_changed_file_is_loaded_when_it_has_been_still(folder, monkeypatch):
    messages: list[str] = []
    looks: list[int] = []
    stamps = iter([1, 2, 3, 4, 4, 4, None, None])  # the last value: it is gone

    def stamp_of(_: Path) -> int | None:
        stamp = next(stamps, None)
        looks.append(len(messages))
        return stamp

    monkeypatch.setattr(pipelines, "print_message", lambda text, _style="": messages.append(text))
    monkeypatch.setattr(pipelines, "stamp_of", stamp_of)
    monkeypatch.setattr(pipelines, "_WATCH_INTERVAL", 0.001)
    folder.write(f"{FOLLOWED}\n{SINK}")
    folder.run_with(lambda: until(lambda: len(looks) > 10))
    loaded = [message for message in messages if "was reloaded" in message]
    assert len(loaded) == 1
    assert looks[:6] == [looks[0]] * 5 + [looks[0] + 1]


def test_on_a_terminal_there_is_a_line_of_progress(folder, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(pipelines, "_PROGRESS_INTERVAL", 0.01)
    monkeypatch.setattr(Status, "update", lambda _, line: lines.append(line))
    sink = "{type: jsonl, name: '[/x]', path: /dev/full, delivery: {max_attempts: 1}}"
    folder.write(f"{FOLLOWED}\nsinks: [{sink}]")
    folder.put("1\n2\n")
    folder.run_with(
        lambda: until(lambda: any("2 dropped" in line for line in lines)), code=1, FORCE_COLOR="1"
    )
    assert any(line.startswith("2 events, ") for line in lines)
    assert any(Text.from_markup(line).plain.endswith("failing: [/x]") for line in lines)
