"""`StructlogSink` with the real structlog: names, levels and fields of its lines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import structlog
from codomyrmex.integrations import InlineSink, attach
from codomyrmex.integrations.logging_monitoring import StructlogSink
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from helpers import DEADLINE
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def structlog_as_it_comes() -> Iterator[None]:
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(event: Event) -> dict[str, Any]:
    with capture_logs() as lines:
        StructlogSink().emit(event)
    [line] = lines
    return line


def written(event: Event, *processors: Any) -> str:
    """Return the rendered line of an event."""
    out = io.StringIO()
    logger = structlog.wrap_logger(structlog.PrintLogger(out), processors=processors)
    StructlogSink(logger).emit(event)
    return out.getvalue()


CONSOLE = (structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False))
JSON = (structlog.processors.add_log_level, structlog.processors.JSONRenderer())
RENDERERS = pytest.mark.parametrize("processors", [CONSOLE, JSON], ids=["console", "json"])

HOSTILE = {
    "line feed": "a\nFAKE level=error",
    "carriage return": "a\rFAKE",
    "both": "a\r\nFAKE",
    "escape": "a\x1b[31mFAKE",
    "vertical tab": "a\x0bFAKE",
    "form feed": "a\x0cFAKE",
    "next line": "a\x85FAKE",
    "line separator": "a\u2028FAKE",
    "paragraph separator": "a\u2029FAKE",
    "control sequence introducer": "a\x9b31mFAKE",
    "NUL": "a\x00FAKE",
    "bell": "a\x07FAKE",
    "right-to-left override": "a\u202eFAKE",
    "lone surrogate": "a\udcffFAKE",
}
TEXTS = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


# Names, levels and fields


def test_a_line_describes_the_event():
    event = create_event({"order": 42}, topic="orders.created", tenant="blue")
    assert logged(event) == {
        "event": "orders.created",
        "log_level": "info",
        "event_id": event.id,
        "event_type": "message",
        "topic": "orders.created",
        "data": {"order": 42},
        "metadata": {"topic": "orders.created", "tenant": "blue"},
    }


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"event": "order placed", "topic": "orders"}, "order placed"),
        ({"event": "", "topic": "orders"}, "orders"),
        ({"topic": "orders"}, "orders"),
        ({"topic": 42}, "connect"),
        ({}, "connect"),
        ({"event": 42}, "42"),
        ({"event": "100% sure %s %d %(x)s {0}"}, "100% sure %s %d %(x)s {0}"),
        ({"event": "größer"}, "größer"),
    ],
    ids=str,
)
def test_a_line_is_named_by_the_metadata_else_the_topic_else_the_type(metadata, name):
    assert logged(Event(type=EventType.CONNECT, metadata=metadata))["event"] == name


@pytest.mark.parametrize(
    ("event_type", "level"),
    [
        (EventType.MESSAGE, "info"),
        (EventType.ERROR, "error"),
        (EventType.CONNECT, "info"),
        (EventType.DISCONNECT, "info"),
        (EventType.HEARTBEAT, "debug"),
    ],
)
def test_the_level_follows_the_type(event_type, level):
    assert logged(create_event(None, event_type))["log_level"] == level


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warning"),
        ("warning", "warning"),
        ("WARNING", "warning"),
        ("error", "error"),
        ("exception", "error"),
        ("critical", "critical"),
        ("fatal", "critical"),
        ("very bad", "info"),
        (None, "info"),
        (["error"], "info"),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["level", "severity"])
def test_a_level_in_the_metadata_takes_precedence(key, said, level):
    assert logged(create_event(None, **{key: said}))["log_level"] == level


def test_the_level_takes_precedence_over_the_severity():
    assert logged(create_event(None, level="debug", severity="error"))["log_level"] == "debug"


def test_no_key_of_the_payload_collides_with_those_of_structlog():
    hostile: dict[str, Any] = {
        "event": "forged",
        "level": "forged",
        "method_name": "forged",
        "self": "forged",
        "exc_info": True,
        "stack_info": True,
        "timestamp": "forged",
        "logger": "forged",
        "_record": "forged",
    }
    event = Event(data=hostile, metadata={**hostile, "event": "real", "level": "warning"})
    line = json.loads(
        written(
            event,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        )
    )
    assert line["event"] == "real"
    assert line["level"] == "warning"
    assert line["timestamp"] != "forged"
    assert line["data"] == hostile
    assert "exception" not in line
    assert "stack" not in line


def test_the_event_is_not_changed_by_logging_it():
    data, metadata = {"inner": {"password": "x"}}, {"topic": "orders"}
    event = Event(data=data, metadata=metadata)
    before = event.to_dict()
    logged(event)
    assert event.to_dict() == before
    assert event.data is data


def test_a_very_long_name_is_shortened():
    assert len(logged(create_event(None, event="x" * 100_000))["event"]) <= 200


@RENDERERS
@pytest.mark.parametrize(
    "payload",
    [{("a", "b"): 1}, {1: "a", None: "b"}, {1.5}, Decimal("1.5"), b"\xff", object(), "\udcff", float("nan")],
    ids=["tuple key", "mixed keys", "set", "decimal", "bytes", "object", "lone surrogate", "nan"],
)
def test_a_payload_that_json_cannot_encode_is_logged(processors, payload):
    assert "orders" in written(create_event(payload, topic="orders"), *processors)


@RENDERERS
def test_a_circular_payload_is_logged(processors):
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert "orders" in written(create_event(circle, topic="orders"), *processors)


# No forged lines


def is_one_harmless_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text[:-1].isprintable()


@TEXTS
@RENDERERS
def test_a_name_cannot_forge_a_line(processors, text):
    assert is_one_harmless_line(written(create_event(None, event=text), *processors))


@TEXTS
@RENDERERS
def test_a_topic_cannot_forge_a_line(processors, text):
    assert is_one_harmless_line(written(create_event(None, topic=text), *processors))


@TEXTS
@RENDERERS
def test_a_string_payload_cannot_forge_a_line(processors, text):
    assert is_one_harmless_line(written(create_event(text), *processors))


@TEXTS
@RENDERERS
def test_a_nested_payload_cannot_forge_a_line(processors, text):
    event = create_event({"key": text, text: [text]}, more=text)
    assert is_one_harmless_line(written(event, *processors))


@TEXTS
@RENDERERS
def test_an_id_cannot_forge_a_line(processors, text):
    assert is_one_harmless_line(written(Event(id=text), *processors))


@TEXTS
def test_a_printable_name_is_unchanged(text):
    name = logged(create_event(None, event=text))["event"]
    assert name.startswith("a")
    assert "FAKE" in name


# The application's own configuration


async def test_the_lines_carry_the_publishers_context_variables():
    stream, out = InMemoryStream(), io.StringIO()
    logger = structlog.wrap_logger(structlog.PrintLogger(out), processors=[merge_contextvars, JSON[-1]])

    async def request(number: int) -> None:
        with bound_contextvars(request=number):
            await asyncio.sleep(0)
            await stream.publish(create_event(number))

    def thread(number: int) -> None:
        with bound_contextvars(request=number):
            stream.publish_nowait(create_event(number))

    async with asyncio.timeout(DEADLINE), attach(stream, StructlogSink(logger)):
        await asyncio.gather(*(request(number) for number in range(5)))
        await asyncio.to_thread(thread, 5)
        await stream.publish(create_event(None))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert sorted((line["data"], line["request"]) for line in lines[:-1]) == [(n, n) for n in range(6)]
    assert "request" not in lines[-1]


def test_a_later_configuration_applies():
    sink, out = StructlogSink(), io.StringIO()
    structlog.configure(processors=[*JSON], logger_factory=structlog.PrintLoggerFactory(out))
    sink.emit(create_event(1, topic="orders"))
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["data"]) == ("orders", "info", 1)


def test_values_bound_to_the_logger_stay_on_the_lines():
    with capture_logs() as lines:
        StructlogSink(structlog.get_logger().bind(service="shop")).emit(create_event(1))
    assert lines[0]["service"] == "shop"


def test_the_minimum_level_of_a_filtering_logger_applies():
    out = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=JSON,
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    sink = StructlogSink(logger)
    sink.emit(create_event(1))
    sink.emit(create_event(2, EventType.ERROR))
    assert [json.loads(line)["data"] for line in out.getvalue().splitlines()] == [2]


def test_loggers_of_the_standard_library_can_be_used(caplog):
    caplog.set_level(logging.INFO, "shop")
    logger = structlog.wrap_logger(
        logging.getLogger("shop"),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_log_level, JSON[-1]],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    sink = StructlogSink(logger)
    sink.emit(create_event(1, EventType.HEARTBEAT))
    sink.emit(create_event(2, topic="100%s"))
    sink.emit(create_event(3, EventType.ERROR))
    assert [(r.levelname, json.loads(r.getMessage())["data"]) for r in caplog.records] == [
        ("INFO", 2),
        ("ERROR", 3),
    ]


# The sink


def test_it_is_an_inline_sink_whose_name_can_be_chosen():
    assert isinstance(StructlogSink(), InlineSink)
    assert StructlogSink().name == "structlog"
    assert StructlogSink(name="audit").name == "audit"


def _raising(*_: Any) -> Any:
    raise RuntimeError("a processor is broken")


@pytest.mark.parametrize(
    ("processor", "delivered"),
    [(_raising, 0), (structlog.processors.JSONRenderer(), 3)],
    ids=["raises", "works"],
)
async def test_an_error_of_the_configuration_is_counted_and_harms_nothing_else(
    processor: Callable[..., Any], delivered: int
):
    stream = InMemoryStream()
    logger = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()), processors=[processor])
    sink = StructlogSink(logger, name=f"structlog {delivered}")
    async with asyncio.timeout(DEADLINE), attach(stream, sink) as attachment:
        for number in range(3):
            await stream.publish(create_event(number))
    report = attachment.report().sinks[sink.name]
    assert (report.delivered, report.given_up) == (delivered, 3 - delivered)
    assert stream.statistics().handler_errors == 0
