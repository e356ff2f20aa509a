"""The options of `StructlogSink`, with several configurations and on both of its paths."""

from __future__ import annotations

import copy
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from itertools import count
from typing import Any

import msgspec
import orjson
import pytest
import structlog
from codomyrmex.integrations import attach
from codomyrmex.integrations.logging_monitoring import StructlogSink
from codomyrmex.streaming import Event, EventType, InMemoryStream, create_event
from helpers import DEADLINE, in_time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.contextvars import bind_contextvars, bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

_numbers = count()

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

LEVEL_NAMES = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "notice": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "fatal": "critical",
    "WARNING": "warning",
}
LEVEL_NUMBERS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "critical",
}


@pytest.fixture(autouse=True)
def structlog_defaults() -> Iterator[None]:
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def emit(sink: StructlogSink, event: Event) -> None:
    """Let a sink log an event in the current context; fail if it does not end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            context.run(sink.emit, event)
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            errors.append(error)

    context = copy_context()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it does not end"
    if errors:
        raise errors[0]


def logged(sink: StructlogSink, event: Event) -> dict[str, Any]:
    """Return the line that a sink without a logger of its own logs for an event."""
    with capture_logs() as lines:
        emit(sink, event)
    [line] = lines
    return dict(line)


# The level


@pytest.mark.parametrize(("said", "level"), [*LEVEL_NAMES.items(), *LEVEL_NUMBERS.items()])
def test_a_level_can_be_fixed_by_name_or_number(said, level):
    event = create_event(None, EventType.ERROR, level="debug", topic="orders")
    assert logged(StructlogSink(level=said), event)["log_level"] == level
    assert logged(StructlogSink(level=said), create_event(None))["log_level"] == level


@pytest.mark.parametrize(("said", "level"), [*LEVEL_NAMES.items(), *LEVEL_NUMBERS.items()])
def test_a_function_can_return_the_level_of_an_event(said, level):
    sink = StructlogSink(level=lambda event: said if event.data == "odd" else "info")
    assert logged(sink, create_event("odd", topic="orders"))["log_level"] == level
    assert logged(sink, create_event("even", EventType.ERROR, topic="orders"))["log_level"] == "info"


@pytest.mark.parametrize("level", ["loud", "", "warning ", "20"])
def test_an_unknown_level_is_rejected_at_once_with_a_list_of_levels(level):
    with pytest.raises(ValueError, match=r"debug, info.*warning.*error.*critical"):
        StructlogSink(level=level)


@pytest.mark.parametrize("level", [True, 1.5, b"info", ["info"]], ids=repr)
def test_a_level_of_another_type_is_rejected_at_once(level):
    with pytest.raises(TypeError, match="level"):
        StructlogSink(level=level)


def _loud(_event: Event) -> str:
    return "loud"


def _raising(_event: Event) -> Any:
    raise RuntimeError("a rule is broken")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("level", {"level": _loud}),
        ("level-raises", {"level": _raising}),
        ("name-raises", {"event_name": _raising}),
        ("fields-raise", {"fields": _raising}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@in_time
async def test_a_function_that_returns_a_wrong_type_is_counted_and_harms_nothing_else(name, options):
    stream, seen = InMemoryStream(), []
    sink = StructlogSink(**options, name=f"structlog-options-{name}")
    async with attach(stream, sink) as attachment:
        await stream.subscribe(seen.append)
        await stream.publish(create_event(1, topic="orders"))
    report = attachment.report().sinks[sink.name]
    assert (report.delivered, report.given_up, len(seen)) == (0, 1, 1)


# The name


@pytest.mark.parametrize("event", [create_event(1, topic="orders"), create_event(1, event="x"), Event()])
def test_a_name_can_be_fixed(event):
    assert logged(StructlogSink(event_name="something happened"), event)["event"] == "something happened"


def test_a_function_can_return_the_name_of_an_event():
    sink = StructlogSink(event_name=lambda event: f"{event.topic}: {event.data}")
    assert logged(sink, create_event(42, topic="orders", event="other"))["event"] == "orders: 42"


@pytest.mark.parametrize(
    ("name", "written"),
    [("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("100% %s {0}", "100% %s {0}"), (42, "42"), ("", "")],
)
def test_a_custom_name_cannot_forge_a_line_either(name, written):
    event = create_event(None, topic="orders")
    assert logged(StructlogSink(event_name=name), event)["event"] == written
    assert logged(StructlogSink(event_name=lambda _: name), event)["event"] == written


def test_a_long_custom_name_is_shortened():
    sinks = StructlogSink(event_name="x" * 5_000), StructlogSink(event_name=lambda _: "x" * 5_000)
    assert [len(logged(sink, Event())["event"]) <= 200 for sink in sinks] == [True, True]


# Additional fields


@pytest.mark.parametrize(
    "event", [create_event(1, topic="orders"), create_event(1), create_event(1, topic="orders", more=1)]
)
def test_fields_can_be_fixed(event):
    sink = StructlogSink(fields={"service": "shop", "tags": ["a"]})
    plain = logged(StructlogSink(), event)
    assert logged(sink, event) == {**plain, "service": "shop", "tags": ["a"]}


def test_a_function_can_return_the_fields_of_an_event():
    sink = StructlogSink(fields=lambda event: {"twice": 2 * event.data})
    assert [logged(sink, create_event(n, topic="orders"))["twice"] for n in (1, 2)] == [2, 4]


@pytest.mark.parametrize("fields", [{}, lambda _: {}, lambda _: None], ids=["none", "function", "nothing"])
def test_the_fields_may_be_empty(fields):
    event = create_event(1, topic="orders")
    assert logged(StructlogSink(fields=fields), event) == logged(StructlogSink(), event)


OF_STRUCTLOG = ["event", "level", "self", "method_name", "timestamp", "logger", "exc_info", "stack_info"]
OF_THE_SINK = ["event_id", "event_type", "topic", "data", "metadata", "trace_id", "span_id"]


@pytest.mark.parametrize("name", [*OF_STRUCTLOG, "positional_args", *OF_THE_SINK])
@pytest.mark.parametrize("as_function", [False, True], ids=["mapping", "function"])
def test_a_field_with_a_reserved_name_gets_an_underscore(name, as_function):
    event = create_event(1, topic="orders", traceparent=f"00-{TRACE}-{SPAN}-01")
    given = {name: "forged"}
    out = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    emit(StructlogSink(logger, fields=(lambda _: given) if as_function else given), event)
    line = json.loads(out.getvalue())
    assert line.pop(f"{name}_") == "forged"
    assert line.pop("timestamp") != "forged"
    assert line == {
        "event": "orders",
        "level": "info",
        "event_id": event.id,
        "event_type": "message",
        "topic": "orders",
        "data": 1,
        "metadata": {"topic": "orders", "traceparent": f"00-{TRACE}-{SPAN}-01"},
        "trace_id": TRACE,
        "span_id": SPAN,
    }


def test_fields_are_converted_to_types_that_every_renderer_accepts():
    sink = StructlogSink(fields={1: {2}, "bytes": b"a", "object": ValueError("x")})
    line = logged(sink, create_event(1))
    assert (line["1"], line["bytes"], line["object"]) == ([2], "YQ==", "ValueError('x')")


# The trace


@given(
    st.from_regex(r"[0-9a-f]{32}", fullmatch=True).filter(lambda text: set(text) != {"0"}),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True).filter(lambda text: set(text) != {"0"}),
    st.sampled_from(["00", "01", "03", "ff"]),
)
@settings(deadline=None, max_examples=50)
def test_a_line_has_the_ids_of_a_valid_traceparent(trace, span, flags):
    line = logged(StructlogSink(), create_event(None, traceparent=f"00-{trace}-{span}-{flags}"))
    assert (line["trace_id"], line["span_id"]) == (trace, span)


def test_a_line_has_the_ids_of_a_traceparent_of_a_later_version():
    line = logged(StructlogSink(), create_event(None, traceparent=f"01-{TRACE}-{SPAN}-01-more"))
    assert (line["trace_id"], line["span_id"]) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}a-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{SPAN}a-01",
        f"00-{SPAN}-{TRACE}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}g-01",
        f"00-{TRACE[:-1]}\n-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}é-01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"{TRACE}-{SPAN}",
        "00--" + "-01",
        "nonsense",
        "",
        None,
        42,
        f"00-{TRACE}-{SPAN}-01".encode(),
        ["00", TRACE, SPAN, "01"],
        {"trace_id": TRACE},
    ],
    ids=repr,
)
def test_a_line_has_no_ids_of_a_malformed_traceparent(traceparent):
    line = logged(StructlogSink(), create_event(1, traceparent=traceparent))
    assert not {"trace_id", "span_id"} & set(line)
    assert line["data"] == 1


# Configurations

Configured = tuple[Any, Callable[[], str]]  # a logger, and a function that returns its output

LEVELS = (structlog.processors.add_log_level,)


def print_logger(*processors: Any, wrapper: Any = None) -> Configured:
    out = io.StringIO()
    logger = structlog.wrap_logger(structlog.PrintLogger(out), processors=processors, wrapper_class=wrapper)
    return logger, out.getvalue


def native() -> Configured:
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    return print_logger(*LEVELS, structlog.processors.JSONRenderer(), wrapper=wrapper)


def json_by_orjson() -> Configured:
    out = io.BytesIO()
    renderer = structlog.processors.JSONRenderer(serializer=orjson.dumps)
    logger = structlog.wrap_logger(structlog.BytesLogger(out), processors=[*LEVELS, renderer])
    return logger, lambda: out.getvalue().decode()


def json_by_msgspec() -> Configured:
    def encode(value: Any, **_: Any) -> str:
        return msgspec.json.encode(value).decode()

    return print_logger(*LEVELS, structlog.processors.JSONRenderer(serializer=encode))


def stdlib_logger(out: io.StringIO, formatter: logging.Formatter) -> logging.Logger:
    logger = logging.getLogger(f"structlog-options-{next(_numbers)}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return logger


def through_stdlib() -> Configured:
    out = io.StringIO()
    logger = structlog.wrap_logger(
        stdlib_logger(out, logging.Formatter()),
        processors=[structlog.stdlib.filter_by_level, *LEVELS, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger, out.getvalue


def through_a_processor_formatter() -> Configured:
    out = io.StringIO()
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ]
    )
    logger = structlog.wrap_logger(
        stdlib_logger(out, formatter),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.UnicodeDecoder(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger, out.getvalue


WITH_JSON = pytest.mark.parametrize(
    "configuration",
    [native, json_by_orjson, json_by_msgspec, through_stdlib, through_a_processor_formatter],
)

EVENTS = pytest.mark.parametrize(
    "event",
    [
        create_event({"order": 42, "lines": [1, None, {"a": "b"}]}, topic="orders"),
        create_event("100% %s %d %(x)s {0}", topic="100% %s"),
        create_event(None, EventType.ERROR),
        create_event([1.5, True], topic="orders", event="placed", level="warning", tenant="größer"),
        create_event(b"\xff", traceparent=f"00-{TRACE}-{SPAN}-01", topic="a\nb"),
        Event(data={"event": 1, "level": 2, "exc_info": True, "self": 3, "positional_args": 4}, id="a\x1bb"),
    ],
    ids=["short", "percents", "error", "named", "traced", "colliding"],
)


@WITH_JSON
@EVENTS
def test_every_configuration_logs_the_same(configuration, event):
    logger, output = configuration()
    emit(StructlogSink(logger), event)
    [line] = output().splitlines()
    fields = logged(StructlogSink(), event)
    fields["level"] = fields.pop("log_level")
    assert json.loads(line) == json.loads(json.dumps(fields))


@WITH_JSON
def test_every_configuration_supports_the_options(configuration):
    logger, output = configuration()
    sink = StructlogSink(logger, level="error", event_name="placed", fields={"service": "shop", "level": 1})
    emit(sink, create_event(42, topic="orders"))
    line = json.loads(output())
    names = ("event", "level", "service", "level_", "topic", "data")
    assert [line[name] for name in names] == ["placed", "error", "shop", 1, "orders", 42]


@pytest.mark.parametrize(
    "configuration", [native, through_stdlib, through_a_processor_formatter], ids=lambda f: f.__name__
)
def test_events_below_the_minimum_level_are_not_logged(configuration):
    logger, output = configuration()
    emit(StructlogSink(logger, level="debug"), create_event(42, topic="orders"))
    assert not output()


@EVENTS
def test_a_console_shows_one_line(event):
    logger, output = print_logger(*LEVELS, structlog.dev.ConsoleRenderer(colors=False))
    emit(StructlogSink(logger), event)
    [line] = output().splitlines()
    fields = logged(StructlogSink(), event)
    assert fields["event"] in line
    assert f"event_type={event.type.value}" in line
    assert f"[{fields['log_level']}" in line


def test_a_console_shows_the_additional_fields():
    logger, output = print_logger(*LEVELS, structlog.dev.ConsoleRenderer(colors=False))
    emit(StructlogSink(logger, fields={"service": "shop"}), create_event(42, topic="orders"))
    assert "service=shop" in output()


@pytest.mark.parametrize("cached", [False, True], ids=["not cached", "cached"])
def test_an_existing_sink_follows_capture_logs(cached):
    out = io.StringIO()
    structlog.configure(
        processors=[*LEVELS, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=cached,
    )
    sink = StructlogSink()
    emit(sink, create_event(1, topic="orders"))
    with capture_logs() as lines:
        emit(sink, create_event(2, topic="orders"))
        emit(sink, create_event(3, topic="orders", more=1))
    emit(sink, create_event(4, topic="orders"))
    assert [line["data"] for line in lines] == [2, 3]
    assert [json.loads(line)["data"] for line in out.getvalue().splitlines()] == [1, 4]


# Context variables


@pytest.mark.parametrize("metadata", [{"topic": "orders"}, {"topic": "orders", "more": 1}], ids=len)
@in_time
async def test_the_publishers_bound_values_are_on_the_line(metadata):
    stream = InMemoryStream()
    logger, output = print_logger(merge_contextvars, structlog.processors.JSONRenderer())
    bind_contextvars(request="of the application")
    with bound_contextvars(request="of the attachment"):
        attachment = await attach(stream, StructlogSink(logger)).start()
    with bound_contextvars(request="of the publisher", user="ada"):
        await stream.publish(Event(metadata=metadata))
        stream.publish_nowait(Event(metadata=metadata))
    await stream.publish(Event(metadata=metadata))
    await attachment.aclose()
    lines = [json.loads(line) for line in output().splitlines()]
    assert [(line["request"], line.get("user")) for line in lines] == [
        ("of the publisher", "ada"),
        ("of the publisher", "ada"),
        ("of the application", None),
    ]


@in_time
async def test_the_bound_values_of_a_thread_are_on_its_lines():
    stream = InMemoryStream()
    logger, output = print_logger(merge_contextvars, structlog.processors.JSONRenderer())

    def publish(number: int) -> None:
        with bound_contextvars(request=number):
            stream.publish_nowait(create_event(number, topic="orders"))

    async with attach(stream, StructlogSink(logger)):
        threads = [threading.Thread(target=publish, args=(n,), daemon=True) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads)
    lines = [json.loads(line) for line in output().splitlines()]
    assert sorted((line["data"], line["request"]) for line in lines) == [(n, n) for n in range(5)]


def test_bound_values_do_not_replace_the_fields_of_the_sink():
    logger, output = print_logger(merge_contextvars, structlog.processors.JSONRenderer())
    with bound_contextvars(topic="forged", data="forged", event_id="forged", service="shop"):
        emit(StructlogSink(logger.bind(topic="forged")), create_event(42, topic="orders"))
    line = json.loads(output())
    assert (line["topic"], line["data"], line["service"]) == ("orders", 42, "shop")
    assert line["event_id"] != "forged"


# Processors


def spoil(value: Any) -> None:
    """Change everything in a value that can be changed."""
    if isinstance(value, dict):
        for inner in value.values():
            spoil(inner)
        value.clear()
        value["spoilt"] = True
    elif isinstance(value, list):
        for inner in value:
            spoil(inner)
        value[:] = ["spoilt"]


def spoiling(_logger: Any, _method: str, event_dict: Any) -> Any:
    for value in event_dict.values():
        spoil(value)
    return event_dict


@pytest.mark.parametrize("more", [{}, {"more": {"inner": [1]}}], ids=["short", "careful"])
def test_a_processor_that_changes_nested_data_changes_neither_the_event_nor_the_fields(more):
    fields = {"tags": [{"a": [1]}]}
    event = create_event({"inner": {"password": "x"}, "list": [[1], {2: 3}]}, topic="orders", **more)
    before = copy.deepcopy((event.data, event.metadata, fields))
    for options in ({}, {"fields": fields}, {"fields": lambda _: fields}):
        logger, output = print_logger(spoiling, structlog.processors.JSONRenderer())
        emit(StructlogSink(logger, **options), event)
        assert json.loads(output())["data"] == {"spoilt": True}
        assert (event.data, event.metadata, fields) == before


# The fast path and the other one

ANY_TEXT = st.text(st.characters(), max_size=20)
KEYS = ANY_TEXT | st.integers() | st.none() | st.booleans()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.binary(max_size=5)
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.just(ValueError("x"))
)
PAYLOADS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=10,
)


@given(ANY_TEXT, PAYLOADS, st.sampled_from(EventType), ANY_TEXT)
@example("orders", {"order": 42}, EventType.MESSAGE, "id")
@example("", None, EventType.CONNECT, "")
@example("x" * 200, None, EventType.MESSAGE, "id")
@example("x" * 201, None, EventType.MESSAGE, "id")
@example("x" * 5_000 + "\n", "\udcff\n", EventType.ERROR, "\x1b")
@example("event", float("nan"), EventType.HEARTBEAT, "\u2028")
@settings(deadline=None)
def test_both_paths_log_the_same(topic, data, kind, event_id):
    event = Event(id=event_id, type=kind, data=data, metadata={"topic": topic})
    short = logged(StructlogSink(), event)
    careful = logged(StructlogSink(), event.replace(metadata={"topic": topic, "more": 1}))
    assert careful["metadata"].pop("more") == 1
    assert repr(sorted(short.items())) == repr(sorted(careful.items()))  # because NaN is not equal to itself


@given(ANY_TEXT, PAYLOADS, st.sampled_from(EventType))
@settings(deadline=None)
def test_options_equal_to_the_defaults_change_nothing(topic, data, kind):
    event = Event(type=kind, data=data, metadata={"topic": topic})
    ruled = StructlogSink(
        level=lambda e: {EventType.ERROR: "error", EventType.HEARTBEAT: "debug"}.get(e.type, "info"),
        event_name=lambda e: e.topic or e.type.value,
        fields={},
    )
    assert repr(logged(ruled, event)) == repr(logged(StructlogSink(), event))
