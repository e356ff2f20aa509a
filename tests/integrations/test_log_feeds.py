"""`PublishLogs` and `StreamLogHandler`: log records as events, without loops."""

from __future__ import annotations

import asyncio
import copy
import functools
import io
import json
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
import structlog
from codomyrmex.integrations import DeliveryPolicy, InlineSink, Sink, attach
from codomyrmex.integrations.logging_monitoring import PublishLogs, StreamLogHandler, StructlogSink
from codomyrmex.streaming import (
    Event,
    EventType,
    InMemoryStream,
    Overflow,
    SSEStream,
    Stream,
    TopicError,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.diagnostics import Diagnostics
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE, in_time, settle
from hypothesis import given, settings
from hypothesis import strategies as st

_numbers = count()  # loggers are never deleted, and diagnostics are rate-limited by name across tests

LEVELS = ["debug", "info", "warning", "error", "critical"]
MAX_LOGS = 200
AT_ONCE = DeliveryPolicy(batch_age=0, max_attempts=1)


def in_a_thread(work: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """Run a function in a thread without an event loop; fail if it does not end."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "it does not end"
    if errors:
        raise errors[0]
    return results[0]


def bounded(test: Callable[..., None]) -> Callable[..., None]:
    """Fail instead of hanging, like `in_time`, but without an event loop."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        in_a_thread(functools.partial(test, *args, **named))

    return run


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


# The two feeds, each behind a logger with the same methods


class Feed:
    """A feed, and a logger whose records it publishes."""

    def __init__(self, counts: PublishLogs | StreamLogHandler, log: Any) -> None:
        self.counts = counts
        self.log = log
        self._remaining = MAX_LOGS

    def log_again(self) -> None:
        """Log because of an event, a limited number of times, so that a loop ends with a wrong count."""
        self._remaining -= 1
        if self._remaining > 0:
            self.log.warning("again")

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.counts.published, self.counts.suppressed, self.counts.failed


def stdlib_logger(*handlers: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(f"shop-{next(_numbers)}")
    logger.setLevel(1)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    return logger


def by_structlog(stream: Stream, *args: Any, **options: Any) -> Feed:
    feed = PublishLogs(stream, *args, **options)
    processors = [structlog.processors.add_log_level, feed, structlog.processors.JSONRenderer(default=id)]
    wrapper = structlog.make_filtering_bound_logger(0)
    return Feed(feed, structlog.wrap_logger(structlog.ReturnLogger(), processors, wrapper))


def by_stdlib(stream: Stream, *args: Any, **options: Any) -> Feed:
    handler = StreamLogHandler(stream, *args, **options)
    return Feed(handler, stdlib_logger(handler))


FEEDS = pytest.mark.parametrize("make", [by_structlog, by_stdlib])


@contextmanager
def root_handler(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


# What a record becomes


@FEEDS
@pytest.mark.parametrize("level", LEVELS)
@bounded
def test_a_record_becomes_an_event(make, level):
    stream = InMemoryStream()
    feed = make(stream, min_level="debug")
    getattr(feed.log, level)("stock is low")
    [event] = stream.get_recent_events()
    assert event.topic == f"logs.{level}"
    assert event.type == (EventType.ERROR if level in {"error", "critical"} else EventType.MESSAGE)
    assert (event.data["event"], event.data["level"]) == ("stock is low", level)
    assert (event.metadata["event"], event.metadata["level"]) == ("stock is low", level)
    assert feed.numbers == (1, 0, 0)


@FEEDS
@pytest.mark.parametrize("make_stream", [InMemoryStream, TopicStream, SSEStream])
@bounded
def test_every_kind_of_stream_receives_logs(make, make_stream):
    stream = make_stream()
    feed = make(stream)
    with collect(stream, "logs.>") as events:
        feed.log.warning("stock is low")
    assert [event.data["event"] for event in events] == ["stock is low"]


@FEEDS
@bounded
def test_records_below_warning_are_not_published_by_default(make):
    stream = InMemoryStream()
    feed = make(stream)
    for level in LEVELS:
        getattr(feed.log, level)("stock is low")
    topics = [event.topic for event in stream.get_recent_events()]
    assert topics == ["logs.warning", "logs.error", "logs.critical"]
    assert feed.numbers == (3, 0, 0)


@FEEDS
@pytest.mark.parametrize(
    ("min_level", "first"), [("debug", 0), ("info", 1), (20, 1), ("WARN", 2), (31, 3), ("fatal", 4), (51, 5)]
)
@bounded
def test_the_minimum_level_is_a_name_or_a_number(make, min_level, first):
    stream = InMemoryStream()
    feed = make(stream, min_level)
    for level in LEVELS:
        getattr(feed.log, level)("stock is low")
    assert [event.data["level"] for event in stream.get_recent_events()] == LEVELS[first:]


@FEEDS
@bounded
def test_the_topic_can_be_chosen(make):
    stream = InMemoryStream()
    make(stream, topic="shop.logs").log.error("stock is low")
    assert stream.get_recent_events()[0].topic == "shop.logs.error"


@FEEDS
@pytest.mark.parametrize("topic", ["", "a..b", ".a", "a.", "*", "a.*", ">", "a.>", 42, None])
def test_a_malformed_topic_is_rejected_at_once(make, topic):
    with pytest.raises(TopicError):
        make(InMemoryStream(), topic=topic)


@FEEDS
@pytest.mark.parametrize("level", ["loud", "", "30"])
def test_an_unknown_level_is_rejected_at_once(make, level):
    with pytest.raises(ValueError, match="level: must be one of"):
        make(InMemoryStream(), min_level=level)


@FEEDS
@pytest.mark.parametrize("level", [None, True, 1.5, b"info"])
def test_a_level_of_another_type_is_rejected_at_once(make, level):
    with pytest.raises(TypeError, match="level: must be a name or a number"):
        make(InMemoryStream(), min_level=level)


@FEEDS
@pytest.mark.parametrize("stream", [None, "logs", InMemoryStream, print])
def test_something_other_than_a_stream_is_rejected_at_once(make, stream):
    with pytest.raises(TypeError, match="stream: must be a Stream"):
        make(stream)


def fail_with_a_cause() -> None:
    try:
        {}["inner"]
    except KeyError as inner:
        raise ValueError("outer") from inner


def an_error() -> ValueError:
    """Return an exception that was raised, with a cause."""
    try:
        fail_with_a_cause()
    except ValueError as error:
        return error
    raise AssertionError


def is_its_traceback(text: str) -> bool:
    return all(
        part in text for part in ("Traceback", "KeyError: 'inner'", "direct cause", "ValueError: outer")
    )


@FEEDS
@bounded
def test_an_exception_is_published_as_text(make):
    stream, error = InMemoryStream(), an_error()
    feed = make(stream)
    try:
        raise error
    except ValueError:
        feed.log.exception("lost")
        feed.log.warning("lost", exc_info=True)
    feed.log.error("lost", exc_info=error)
    feed.log.error("lost", exc_info=(type(error), error, error.__traceback__))
    events = stream.get_recent_events()
    assert len(events) == 4
    for event in events:
        assert is_its_traceback(event.data["exception"])
        assert "exc_info" not in event.data


@FEEDS
@pytest.mark.parametrize("exc_info", [True, False, None, (None, None, None)], ids=repr)
@bounded
def test_without_an_exception_none_is_published(make, exc_info):
    stream = InMemoryStream()
    make(stream).log.error("lost", exc_info=exc_info)
    [event] = stream.get_recent_events()
    assert not {"exception", "exc_info"} & set(event.data)


@bounded
def test_an_already_formatted_exception_is_kept():
    stream = InMemoryStream()
    processors = [structlog.processors.format_exc_info, PublishLogs(stream), lambda *_: ""]
    structlog.wrap_logger(structlog.ReturnLogger(), processors).error("lost", exc_info=an_error())
    assert is_its_traceback(stream.get_recent_events()[0].data["exception"])


@FEEDS
@bounded
def test_a_record_cannot_forge_a_line_or_a_long_name(make):
    stream = InMemoryStream()
    feed = make(stream)
    feed.log.warning("a\nFAKE level=error\x1b[31m")
    feed.log.warning("x" * 100_000)
    first, second = stream.get_recent_events()
    assert first.metadata["event"] == "a\\nFAKE level=error\\x1b[31m"
    assert len(second.metadata["event"]) <= 200
    assert (first.data["event"], len(second.data["event"])) == ("a\nFAKE level=error\x1b[31m", 100_000)


# What only structlog has

JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=10) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


NAMES = st.text(max_size=8).filter(lambda name: name != "level") | st.sampled_from(["event", "logger"])


@given(st.dictionaries(NAMES, JSON_LIKE, max_size=5))
@settings(deadline=None)
@bounded
def test_the_record_is_passed_on_unchanged(record):
    stream = InMemoryStream()
    feed = PublishLogs(stream, "debug")
    before = copy.deepcopy(record)
    assert feed(None, "warning", record) is record
    assert repr(record) == repr(before)
    assert feed.published + feed.suppressed + feed.failed == 1


@bounded
def test_the_event_shares_no_objects_with_the_record():
    stream = InMemoryStream()
    record = {"event": "stock is low", "inner": {"list": [1]}}
    PublishLogs(stream)(None, "warning", record)
    record["inner"]["list"].append(2)
    [event] = stream.get_recent_events()
    assert event.data == {"event": "stock is low", "inner": {"list": [1]}}
    event.data["inner"]["list"].append(3)
    assert record["inner"] == {"list": [1, 2]}


@bounded
def test_bound_values_and_arguments_are_in_the_data():
    stream = InMemoryStream()
    log = by_structlog(stream).log.bind(service="shop", exc_info=None)
    assert json.loads(log.warning("stock is low", left=3))["left"] == 3
    assert stream.get_recent_events()[0].data == {
        "event": "stock is low",
        "level": "warning",
        "service": "shop",
        "left": 3,
    }


@pytest.mark.parametrize(
    ("method", "level"),
    [("warn", "warning"), ("exception", "error"), ("fatal", "critical"), ("msg", "info"), ("err", "info")],
)
@bounded
def test_without_a_level_in_the_record_the_method_determines_it(method, level):
    stream = InMemoryStream()
    PublishLogs(stream, "debug")(None, method, {"event": "stock is low"})
    assert stream.get_recent_events()[0].topic == f"logs.{level}"


@in_time
async def test_the_async_methods_of_structlog_are_published_too():
    stream = InMemoryStream()
    feed = by_structlog(stream)
    stream.subscribe_nowait(lambda _: feed.log_again())
    await feed.log.awarning("stock is low", left=3)
    assert [event.data["left"] for event in stream.get_recent_events()] == [3]
    assert feed.numbers == (1, 1, 0)


def formatter(*processors: Any) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
        processors=[
            *processors,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=repr),
        ],
    )


def to_formatter(logger: logging.Logger) -> Any:
    return structlog.wrap_logger(
        logger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@bounded
def test_records_of_structlog_and_of_others_are_published_from_a_processor_formatter():
    stream, out = InMemoryStream(), io.StringIO()
    feed = PublishLogs(stream)
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter(feed))
    logger = stdlib_logger(handler)
    to_formatter(logger).warning("by structlog", left=3)
    logger.warning("by %s", "stdlib", extra={"left": 4})
    try:
        raise an_error()
    except ValueError:
        logger.exception("lost")
    first, second, third = stream.get_recent_events()
    assert first.data == {"event": "by structlog", "level": "warning", "left": 3}
    assert second.data == {"event": "by stdlib", "level": "warning", "left": 4}
    assert is_its_traceback(third.data["exception"])
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == [
        "by structlog",
        "by stdlib",
        "lost",
    ]


# What only the standard library has


@bounded
def test_a_record_of_the_standard_library_has_its_logger_location_and_time():
    stream = InMemoryStream()
    handler = StreamLogHandler(stream)
    logger = stdlib_logger(handler)
    record = logger.makeRecord("shop.stock", 30, "/srv/shop.py", 7, "%s is low: %d", ("tea", 3), None)
    logger.handle(record)
    [event] = stream.get_recent_events()
    assert event.data == {
        "event": "tea is low: 3",
        "level": "warning",
        "logger": "shop.stock",
        "location": "/srv/shop.py:7",
        "thread": threading.current_thread().name,
    }
    assert event.timestamp == datetime.fromtimestamp(record.created, UTC)


@bounded
def test_the_record_itself_is_unchanged():
    handler = StreamLogHandler(InMemoryStream())
    record = stdlib_logger().makeRecord("shop", 40, "f", 1, "%s", ("a",), None, extra={"left": [1]})
    before = dict(vars(record))
    handler.handle(record)
    assert vars(record) == before
    assert handler.published == 1


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        ("%s is low", ("tea",), "tea is low"),
        ("%(what)s is low", ({"what": "tea"},), "tea is low"),
        ("100% sure %s", (), "100% sure %s"),
        (42, (), "42"),
        (ValueError("x"), (), "x"),
        (None, (), "None"),
    ],
    ids=str,
)
@bounded
def test_the_message_is_formatted(message, args, text):
    stream = InMemoryStream()
    by_stdlib(stream).log.warning(message, *args)
    assert stream.get_recent_events()[0].data["event"] == text


@bounded
def test_extras_are_published_and_replace_no_other_field():
    stream = InMemoryStream()
    extra = {"left": 3, "inner": {"a": (1, 2)}, "exception": "mine", "topic": "mine"}
    taken = {"event": "forged", "level": "forged", "logger": "forged", "location": "forged"}
    logger = by_stdlib(stream).log
    logger.warning("stock is low", extra={**extra, **taken, "_private": 1})
    data = stream.get_recent_events()[0].data
    assert (data["left"], data["inner"], data["exception"], data["topic"]) == (
        3,
        {"a": [1, 2]},
        "mine",
        "mine",
    )
    assert (data["event"], data["level"], data["logger"]) == ("stock is low", "warning", logger.name)
    assert data["location"].startswith(__file__)
    assert "_private" not in data


@bounded
def test_the_stack_is_published():
    stream = InMemoryStream()
    by_stdlib(stream).log.warning("stock is low", stack_info=True)
    data = stream.get_recent_events()[0].data
    assert data["stack"].startswith("Stack (most recent call last)")
    assert "stack_info" not in data


@pytest.mark.parametrize(
    ("number", "topic", "kind"),
    [
        (1, "logs.debug", EventType.MESSAGE),
        (15, "logs.debug", EventType.MESSAGE),
        (35, "logs.warning", EventType.MESSAGE),
        (45, "logs.error", EventType.ERROR),
        (99, "logs.critical", EventType.ERROR),
    ],
)
@bounded
def test_levels_between_the_named_ones_count_as_the_one_below(number, topic, kind):
    stream = InMemoryStream()
    by_stdlib(stream, min_level=1).log.log(number, "stock is low")
    [event] = stream.get_recent_events()
    assert (event.topic, event.type) == (topic, kind)


@bounded
def test_filters_and_the_level_of_the_handler_apply():
    stream = InMemoryStream()
    handler = StreamLogHandler(stream)
    logger = stdlib_logger(handler)
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    logger.warning("a secret")
    logger.warning("no such thing")
    handler.setLevel(logging.ERROR)
    logger.warning("too low")
    logger.error("lost")
    assert [e.data["event"] for e in stream.get_recent_events()] == ["no such thing", "lost"]


@bounded
def test_records_of_structlog_keep_their_fields_in_the_standard_library():
    stream, out = InMemoryStream(), io.StringIO()
    written = logging.StreamHandler(out)
    written.setFormatter(formatter())
    logger = stdlib_logger(StreamLogHandler(stream), written)
    to_formatter(logger).warning("stock is low", left=3, inner={"a": [1]}, positional=("x",))
    data = stream.get_recent_events()[0].data
    assert (data["event"], data["level"], data["left"]) == ("stock is low", "warning", 3)
    assert (data["inner"], data["positional"], data["logger"]) == ({"a": [1]}, ["x"], logger.name)
    assert not [key for key in data if key.startswith("_")]
    assert json.loads(out.getvalue())["left"] == 3


@bounded
def test_rendered_lines_of_structlog_are_text_in_the_standard_library():
    stream = InMemoryStream()
    logger = structlog.wrap_logger(
        by_stdlib(stream).log,
        processors=[structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    logger.warning("stock is low", left=3)
    data = stream.get_recent_events()[0].data
    assert json.loads(data["event"]) == {"event": "stock is low", "left": 3}


@bounded
def test_the_shutdown_of_logging_raises_nothing():
    handler = StreamLogHandler(InMemoryStream())
    handler.acquire()
    handler.flush()
    handler.close()
    handler.release()
    assert "StreamLogHandler" in repr(handler)


# Hostile values


class RaisingRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


class EndlessRepr:
    def __repr__(self) -> str:
        return repr(self)


class RaisingLen(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("no end of it")

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("no end of it")


class RaisingBool:
    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("neither")

    __hash__ = None  # type: ignore[assignment] # nor that


def circle() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["self"] = inner
    return inner


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(20_000):
        inner = [inner]
    return inner


# Made on demand: pytest would show them in its report, which some do not survive.
HOSTILE = {
    "repr raises": RaisingRepr,
    "repr is endless": EndlessRepr,
    "iterating raises": RaisingLen,
    "neither true nor false": RaisingBool,
    "circle": circle,
    "deep": deep,
    "keys": lambda: {("a", "b"): 1, None: 2, 1: 3, RaisingRepr(): 4},
    "set": lambda: {1.5, Decimal(1)},
    "bytes": lambda: b"\xff",
    "text": lambda: "\udcff\x00\n\x1b",
    "nan": lambda: float("nan"),
    "long": lambda: 10**400,
    "class": lambda: object,
    "lock": threading.Lock,
    "iterator": lambda: iter([1]),
}
VALUES = pytest.mark.parametrize("make_value", HOSTILE.values(), ids=HOSTILE.keys())


@FEEDS
@VALUES
@bounded
def test_any_value_can_be_logged(make, make_value):
    stream, value = InMemoryStream(), make_value()
    feed = make(stream)
    if make is by_stdlib:
        feed.log.warning("stock is low", extra={"value": value})
    else:
        feed.counts(None, "warning", {"event": "stock is low", "value": value})
    [event] = stream.get_recent_events()
    assert event.data["event"] == "stock is low"
    json.dumps(event.data)
    assert feed.numbers == (1, 0, 0)


@FEEDS
@VALUES
@bounded
def test_any_message_is_counted_and_none_raises(make, make_value):
    stream, value = InMemoryStream(), make_value()
    feed = make(stream)
    if make is by_stdlib:
        feed.log.warning(value)
        feed.log.warning("%s", value)
        feed.log.warning("%d", value)
    else:
        for _ in range(3):
            record = {"event": value}
            assert feed.counts(None, "warning", record) is record
    published, suppressed, failed = feed.numbers
    assert (published + failed, suppressed) == (3, 0)
    assert len(stream.get_recent_events()) == published


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"event": None},
        {"event": "x", "level": None},
        {"event": "x", "level": 30},
        {"event": "x", "level": "loud"},
        {"event": "x", "logger": threading.Lock()},
        {"event": "x", "exc_info": "nonsense"},
        {"event": "x", "exc_info": (1,)},
        {"event": "x", "exc_info": (1, 2, 3)},
        {"event": "x", "exc_info": ()},
        {"event": "x", "_record": None},
        {"event": "x", "_record": "nonsense"},
        {1: 2, None: 3, ("a",): 4},
    ],
    ids=lambda record: "-".join(map(str, record)),
)
@bounded
def test_any_record_of_structlog_is_passed_on(record):
    feed = PublishLogs(InMemoryStream())
    before = dict(record)
    assert feed(None, "warning", record) is record
    assert list(record) == list(before)
    assert feed.published + feed.failed == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"exc_info": (None,)},
        {"exc_info": "nonsense"},
        {"created": 1e300},
        {"created": float("nan")},
        {"created": None},
        {"levelno": "high"},
        {"levelname": None},
        {"name": None},
        {"args": 42},
        {"args": ("too", "many")},
        {"msg": {}},
        {"msg": {1: 2, ("a",): 3}},
        {"exc_text": 42},
    ],
    ids=str,
)
@bounded
def test_any_record_of_the_standard_library_is_counted_and_none_raises(fields):
    handler = StreamLogHandler(InMemoryStream())
    record = logging.makeLogRecord({"msg": "x", "levelno": 30, "levelname": "WARNING", **fields})
    handler.handle(record)
    assert handler.published + handler.failed == 1


# Never raises


@FEEDS
@in_time
async def test_logs_to_a_closed_stream_are_counted_as_failed(make):
    stream = InMemoryStream()
    feed = make(stream)
    feed.log.warning("open")
    await stream.aclose()
    feed.log.warning("closed")
    feed.log.error("closed", exc_info=an_error())
    assert feed.numbers == (1, 0, 2)


@FEEDS
@bounded
def test_a_handler_that_raises_does_not_affect_the_caller(make):
    stream, seen = InMemoryStream(), []
    feed = make(stream)

    def fail(event: Event) -> None:
        raise (RecursionError if event.data["event"] == "second" else ValueError)("a handler is broken")

    stream.subscribe_nowait(fail)
    stream.subscribe_nowait(seen.append)
    feed.log.warning("first")
    feed.log.warning("second")
    assert (len(seen), feed.numbers) == (2, (2, 0, 0))
    assert stream.statistics().handler_errors == 2


@FEEDS
@bounded
def test_an_interceptor_that_raises_or_drops_does_not_affect_the_caller(make):
    stream = InMemoryStream()
    feed = make(stream)

    def intercept(event: Event) -> Event | None:
        if event.data["event"] == "raise":
            raise ValueError("an interceptor is broken")
        return None

    stream.add_interceptor(intercept)
    feed.log.warning("raise")
    feed.log.warning("drop")
    assert [event.data["event"] for event in stream.get_recent_events()] == ["raise"]
    assert sum(feed.numbers) == 2


@FEEDS
@bounded
def test_a_recursion_error_can_be_logged(make):
    stream = InMemoryStream()
    feed = make(stream)

    def deeper() -> None:
        deeper()

    try:
        deeper()
    except RecursionError:
        feed.log.exception("too deep")
    [event] = stream.get_recent_events()
    assert "RecursionError" in event.data["exception"]


@FEEDS
@bounded
def test_logging_at_the_recursion_limit_raises_only_recursion_errors(make):
    stream = InMemoryStream()
    feed = make(stream)

    def dive() -> None:
        feed.log.warning("deep")
        dive()

    with pytest.raises(RecursionError):
        dive()
    feed.log.warning("back")
    assert [event.data["event"] for event in stream.get_recent_events(2)] == ["deep", "back"]
    assert feed.counts.suppressed == 0


# Never blocks


class Hanging(Sink):
    def __init__(self) -> None:
        self.name = f"hanging-{next(_numbers)}"
        self.entered = asyncio.Event()

    async def send(self, events: Sequence[Event]) -> None:
        self.entered.set()
        await asyncio.Event().wait()


@FEEDS
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.BLOCK])
@in_time
async def test_a_sink_that_hangs_does_not_block_the_caller(make, overflow):
    stream, sink = InMemoryStream(), Hanging()
    feed = make(stream)
    policy = DeliveryPolicy(queue_size=2, batch_size=1, batch_age=0, overflow=overflow, drain_timeout=0)

    def log() -> None:
        for number in range(20):
            feed.log.warning("number %s", number)

    attachment = await attach(stream, sink, policy=policy).start()
    feed.log.warning("first")
    await sink.entered.wait()
    in_a_thread(log)  # the loop is blocked meanwhile, so nothing can make room
    log()
    assert feed.numbers == (41, 0, 0)
    report = (await attachment.aclose(0)).sinks[sink.name]
    assert report.delivered + report.given_up + sum(report.dropped.values()) + report.lost == 41


@FEEDS
@in_time
async def test_a_full_queue_that_blocks_does_not_block_the_caller(make):
    stream = InMemoryStream()
    feed = make(stream)

    def log() -> None:
        for number in range(5):
            feed.log.warning("number %s", number)

    async with stream.listen(queue_size=1, overflow=Overflow.BLOCK) as events:
        in_a_thread(log)
        log()
        assert feed.numbers == (10, 0, 0)
        assert stream.statistics().dropped == 9
        assert "number" in (await anext(events)).data["event"]


@FEEDS
@in_time
async def test_an_async_handler_that_hangs_does_not_block_the_caller(make):
    stream = InMemoryStream()
    feed = make(stream)
    go_on, handled = asyncio.Event(), []

    async def hang(event: Event) -> None:
        await go_on.wait()
        handled.append(event)

    stream.subscribe_nowait(hang)
    in_a_thread(lambda: [feed.log.warning("from a thread") for _ in range(5)])
    feed.log.warning("from the loop")
    await settle()
    assert feed.numbers == (6, 0, 0)
    go_on.set()
    await stream.aclose()
    assert len(handled) == 6


@FEEDS
@bounded
def test_an_async_handler_of_a_closed_loop_does_not_affect_the_caller(make):
    stream = InMemoryStream()
    feed = make(stream)

    async def handle(_: Event) -> None:
        pass

    async def subscribe() -> None:
        stream.subscribe_nowait(handle)

    asyncio.run(subscribe())
    feed.log.warning("after the loop")
    assert feed.numbers == (1, 0, 0)


# No lock


@FEEDS
@bounded
def test_a_handler_may_wait_for_a_thread_that_logs(make):
    stream, waited = InMemoryStream(), []
    feed = make(stream)

    def wait_for_another(event: Event) -> None:
        if event.data["event"] == "first":
            in_a_thread(lambda: feed.log.warning("second"), timeout=DEADLINE / 2)
            waited.append(event)

    stream.subscribe_nowait(wait_for_another)
    feed.log.warning("first")
    assert (len(waited), feed.counts.published) == (1, 2)


@FEEDS
@bounded
def test_two_threads_may_wait_for_each_other_in_handlers(make):
    stream, met = InMemoryStream(), []
    feed = make(stream)
    both = threading.Barrier(2, timeout=DEADLINE / 2)

    def meet(_: Event) -> None:
        both.wait()
        met.append(threading.get_ident())

    stream.subscribe_nowait(meet)
    threads = [threading.Thread(target=feed.log.warning, args=("here",), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert len(set(met)) == 2


# The package's own diagnostics

OWN = [
    "codomyrmex",
    "codomyrmex.streaming.dispatch",
    "codomyrmex.integrations.delivery.worker",
    "codomyrmex.x",
]


@pytest.mark.parametrize("name", OWN)
@bounded
def test_the_packages_own_logs_are_not_published(name):
    stream = InMemoryStream()
    handler = StreamLogHandler(stream)
    with root_handler(handler):
        logging.getLogger(name).error("of its own")
    assert (handler.published, handler.suppressed) == (0, 1)


@pytest.mark.parametrize("name", OWN)
@bounded
def test_the_packages_own_logs_are_not_published_by_structlog_either(name):
    feed = PublishLogs(InMemoryStream())
    feed(None, "error", {"event": "of its own", "logger": name})
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(formatter(feed))
    with root_handler(handler):
        logging.getLogger(name).error("of its own")
    assert (feed.published, feed.suppressed) == (0, 2)


@pytest.mark.parametrize("name", ["codomyrmexes", "my.codomyrmex", "codomyrmex_shop", "shop", ""])
@bounded
def test_logs_of_other_packages_are_published(name):
    handler = StreamLogHandler(InMemoryStream())
    handler.handle(logging.makeLogRecord({"name": name, "levelno": 40, "levelname": "ERROR", "msg": "x"}))
    feed = PublishLogs(InMemoryStream())
    feed(None, "error", {"event": "x", "logger": name})
    assert (handler.published, feed.published) == (1, 1)


@in_time
async def test_an_error_while_publishing_a_log_is_not_published():
    stream = InMemoryStream()
    handler = StreamLogHandler(stream)

    class Failing(InlineSink):
        name = f"failing-{next(_numbers)}"

        def emit(self, event: Event) -> None:
            raise ValueError("a sink is broken")

    def fail(_: Event) -> None:
        raise ValueError("a handler is broken")

    with root_handler(handler):
        async with attach(stream, Failing()):
            stream.subscribe_nowait(fail)
            logging.getLogger("shop").warning("stock is low")
            await stream.publish(create_event(1, topic="orders"))
            await settle()
        Diagnostics(f"codomyrmex.test-{next(_numbers)}").warning("kind", "of its own")
        await stream.aclose()
        logging.getLogger("shop").warning("closed")
    assert [event.topic for event in stream.get_recent_events()] == ["logs.warning", "orders"]
    assert (handler.published, handler.failed) == (1, 1)
    assert handler.suppressed >= 2


# No loops: in each of these, something logs because of a log event.


def plain(feed: Feed) -> Callable[[Event], Any]:
    def handle(_: Event) -> None:
        feed.log_again()

    return handle


def asynchronous(feed: Feed) -> Callable[[Event], Any]:
    async def handle(_: Event) -> None:
        feed.log_again()

    return handle


def asynchronous_after_a_while(feed: Feed) -> Callable[[Event], Any]:
    async def handle(_: Event) -> None:
        await asyncio.sleep(0)
        feed.log_again()

    return handle


def in_a_task(feed: Feed) -> Callable[[Event], Any]:
    tasks = set()

    async def later() -> None:
        await asyncio.sleep(0)
        feed.log_again()

    def handle(_: Event) -> None:
        task = asyncio.get_running_loop().create_task(later())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return handle


def in_a_task_of_an_async_handler(feed: Feed) -> Callable[[Event], Any]:
    handle_now = in_a_task(feed)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        handle_now(event)

    return handle


def in_a_callback(feed: Feed) -> Callable[[Event], Any]:
    def handle(_: Event) -> None:
        asyncio.get_running_loop().call_soon(feed.log_again)

    return handle


def in_another_thread(feed: Feed) -> Callable[[Event], Any]:
    async def handle(_: Event) -> None:
        await asyncio.to_thread(feed.log_again)

    return handle


def in_a_group(feed: Feed) -> Callable[[Event], Any]:
    async def log() -> None:
        feed.log_again()

    async def handle(_: Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(log())

    return handle


def with_what_follows_from_it(feed: Feed) -> Callable[[Event], Any]:
    """Publish another event, whose handlers log too."""
    other = InMemoryStream()
    other.subscribe_nowait(plain(feed))

    async def handle(event: Event) -> None:
        await other.publish(create_event(event.data, topic="derived"))

    return handle


def when_it_has_failed(feed: Feed) -> Callable[[Event], Any]:
    def handle(_: Event) -> None:
        try:
            fail_with_a_cause()
        except ValueError:
            feed.log_again()
            raise

    return handle


REACTIONS = pytest.mark.parametrize(
    "react",
    [
        plain,
        asynchronous,
        asynchronous_after_a_while,
        in_a_task,
        in_a_task_of_an_async_handler,
        in_a_callback,
        in_another_thread,
        in_a_group,
        with_what_follows_from_it,
        when_it_has_failed,
    ],
)
STREAMS = pytest.mark.parametrize("make_stream", [InMemoryStream, TopicStream, SSEStream])


@FEEDS
@REACTIONS
@STREAMS
@in_time
async def test_logs_caused_by_a_log_event_are_not_published(make, react, make_stream):
    stream = make_stream()
    feed = make(stream)
    stream.subscribe_nowait(react(feed))
    feed.log.warning("first")
    await until(lambda: feed.counts.suppressed)
    await settle()
    assert feed.numbers == (1, 1, 0)
    feed.log.warning("second")  # the guard ends with the first record
    await until(lambda: feed.counts.suppressed > 1)
    await settle()
    assert feed.numbers == (2, 2, 0)


@FEEDS
@pytest.mark.parametrize(
    "react",
    [asynchronous, asynchronous_after_a_while, in_another_thread, in_a_group, with_what_follows_from_it],
)
@STREAMS
@in_time
async def test_logs_caused_by_a_log_event_of_a_thread_are_not_published(make, react, make_stream):
    stream = make_stream()
    feed = make(stream)
    stream.subscribe_nowait(react(feed))
    in_a_thread(lambda: [feed.log.warning("from a thread") for _ in range(3)])
    await until(lambda: feed.counts.suppressed == 3)
    await settle()
    assert feed.numbers == (3, 3, 0)


@FEEDS
@REACTIONS
@STREAMS
@in_time
async def test_logs_caused_by_another_event_are_published_once(make, react, make_stream):
    stream = make_stream()
    feed = make(stream)
    stream.subscribe_nowait(react(feed))
    await stream.publish(create_event(1, topic="orders"))
    await until(lambda: feed.counts.suppressed)
    await settle()
    assert feed.numbers == (1, 1, 0)
    stream.publish_nowait(create_event(2, topic="orders"))
    await until(lambda: feed.counts.suppressed > 1)
    await settle()
    assert feed.numbers == (2, 2, 0)


@FEEDS
@in_time
async def test_handlers_that_log_on_the_loop_of_another_thread_cause_no_loop(make):
    stream = InMemoryStream()
    feed = make(stream)
    ready, over = threading.Event(), threading.Event()

    async def live() -> None:
        stream.subscribe_nowait(asynchronous_after_a_while(feed))
        ready.set()
        while not over.is_set():
            await asyncio.sleep(0)

    thread = threading.Thread(target=asyncio.run, args=(live(),), daemon=True)
    thread.start()
    assert ready.wait(DEADLINE)
    try:
        feed.log.warning("first")
        await stream.publish(create_event(1, topic="orders"))
        await until(lambda: feed.counts.suppressed == 2)
        await settle()
    finally:
        over.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert feed.numbers == (2, 2, 0)


@FEEDS
@in_time
async def test_many_handlers_that_log_cause_no_loop(make):
    stream = InMemoryStream()
    feed = make(stream)
    for react in (plain, asynchronous, in_a_task, plain, when_it_has_failed):
        stream.subscribe_nowait(react(feed), "logs.>")
    for number in range(10):
        feed.log.warning("number %s", number)
    await until(lambda: feed.counts.suppressed == 50)
    await settle()
    assert feed.numbers == (10, 50, 0)


@in_time
async def test_both_feeds_together_cause_no_loop():
    stream = InMemoryStream()
    by_name = {"structlog": by_structlog(stream), "stdlib": by_stdlib(stream)}

    def log_with_both(_: Event) -> None:
        for feed in by_name.values():
            feed.log_again()

    async def log_with_both_later(event: Event) -> None:
        await asyncio.sleep(0)
        log_with_both(event)

    stream.subscribe_nowait(log_with_both)
    stream.subscribe_nowait(log_with_both_later)
    for feed in by_name.values():
        feed.log.warning("first")
    await until(lambda: all(feed.counts.suppressed == 4 for feed in by_name.values()))
    await settle()
    assert [feed.numbers for feed in by_name.values()] == [(1, 4, 0), (1, 4, 0)]


@in_time
async def test_one_chain_with_both_feeds_publishes_a_record_once_by_each():
    stream = InMemoryStream()
    handler, feed = StreamLogHandler(stream), PublishLogs(stream)
    log = structlog.wrap_logger(
        stdlib_logger(handler),
        processors=[structlog.stdlib.add_log_level, feed, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    stream.subscribe_nowait(lambda _: log.warning("again"))
    log.warning("first")
    await settle()
    assert [event.topic for event in stream.get_recent_events()] == ["logs.warning", "logs.warning"]
    assert (feed.published, feed.suppressed, handler.published, handler.suppressed) == (1, 2, 1, 2)


def sink_that_logs_its_own_logs(
    stream: Stream, *, min_level: str = "warning"
) -> tuple[Any, Any, io.StringIO]:
    """Return a logger that publishes, and a `StructlogSink` that logs the published events with it."""
    out = io.StringIO()
    feed = PublishLogs(stream, min_level)
    processors = [structlog.processors.add_log_level, feed, structlog.processors.JSONRenderer()]
    logger = structlog.wrap_logger(structlog.PrintLogger(out), processors)
    return feed, logger, out


@in_time
async def test_a_sink_that_logs_log_events_causes_no_loop():
    stream = InMemoryStream()
    feed, logger, out = sink_that_logs_its_own_logs(stream)
    sink = StructlogSink(logger, name=f"structlog-{next(_numbers)}")
    async with attach(stream, sink) as attachment:
        logger.warning("stock is low", left=3)
        await settle()
        assert (feed.published, feed.suppressed) == (1, 1)
        in_a_thread(lambda: logger.warning("from a thread"))
        assert (feed.published, feed.suppressed) == (2, 2)
        logger.warning("normal again")
        assert (feed.published, feed.suppressed) == (3, 3)
    assert attachment.report().sinks[sink.name].delivered == 3
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 6  # each once when logged and once when delivered
    assert sorted(line["event"] for line in lines[:2]) == ["stock is low"] * 2


@in_time
async def test_a_sink_that_logs_an_ordinary_event_is_published_once():
    stream = InMemoryStream()
    feed, logger, _ = sink_that_logs_its_own_logs(stream, min_level="info")
    async with attach(stream, StructlogSink(logger, name=f"structlog-{next(_numbers)}")):
        await stream.publish(create_event(42, EventType.ERROR, topic="orders"))
        await settle()
        assert [event.topic for event in stream.get_recent_events()] == ["orders", "logs.error"]
        assert (feed.published, feed.suppressed) == (1, 1)
        stream.publish_nowait(create_event(42, topic="orders"))
        assert (feed.published, feed.suppressed) == (2, 2)


class Logging(Sink):
    """Logs the events that it sends."""

    def __init__(self, log: Callable[[Event], Awaitable[None] | None]) -> None:
        self.name = f"logging-{next(_numbers)}"
        self.log = log
        self.sent: list[Event] = []

    async def send(self, events: Sequence[Event]) -> None:
        for event in events:
            self.sent.append(event)
            done = self.log(event)
            if done is not None:
                await done


def log_now(_: Event) -> None:
    logging.getLogger("shop").warning("sending")


async def log_later(event: Event) -> None:
    await asyncio.sleep(0)
    log_now(event)


async def log_in_a_task(event: Event) -> None:
    await asyncio.create_task(log_later(event))


async def log_in_a_thread(event: Event) -> None:
    await asyncio.to_thread(log_now, event)


def log_and_fail(event: Event) -> None:
    log_now(event)
    raise ValueError("a sink is broken")


@pytest.mark.parametrize("log", [log_now, log_later, log_in_a_task, log_in_a_thread, log_and_fail])
@in_time
async def test_a_queued_sink_that_logs_while_it_sends_causes_no_loop(log):
    stream, sink = InMemoryStream(), Logging(log)
    handler = StreamLogHandler(stream)
    logger = logging.getLogger("shop")
    with root_handler(handler):
        async with attach(stream, sink, policy=AT_ONCE) as attachment:
            logger.warning("stock is low")
            await attachment.flush()
            await settle()
            assert (handler.published, len(sink.sent)) == (1, 1)
            in_a_thread(lambda: logger.warning("from a thread"))
            await attachment.flush()
            await settle()
            assert (handler.published, len(sink.sent)) == (2, 2)
            logger.warning("normal again")
            await attachment.flush()
            await settle()
    assert [event.data["event"] for event in sink.sent] == ["stock is low", "from a thread", "normal again"]
    assert (handler.published, handler.failed) == (3, 0)
    assert handler.suppressed >= 3


@in_time
async def test_a_queued_sink_that_logs_an_ordinary_event_is_published_once():
    stream, sink = InMemoryStream(), Logging(log_now)
    handler = StreamLogHandler(stream)
    with root_handler(handler):
        async with attach(stream, sink, policy=AT_ONCE) as attachment:
            await stream.publish(create_event(42, topic="orders"))
            await until(lambda: len(sink.sent) == 2)
            await attachment.flush()
            await settle()
    assert [event.topic for event in sink.sent] == ["orders", "logs.warning"]
    assert (handler.published, handler.suppressed, handler.failed) == (1, 1, 0)


@in_time
async def test_sinks_of_both_kinds_and_both_feeds_cause_no_loop():
    stream, sink = InMemoryStream(), Logging(log_later)
    feed, logger, _ = sink_that_logs_its_own_logs(stream)
    handler = StreamLogHandler(stream)
    with root_handler(handler):
        inline = StructlogSink(logger, name=f"structlog-{next(_numbers)}")
        async with attach(stream, inline, sink, policy=AT_ONCE) as attachment:
            logger.warning("by structlog")
            logging.getLogger("shop").warning("by stdlib")
            await attachment.flush()
            await settle()
    assert [event.data["event"] for event in sink.sent] == ["by structlog", "by stdlib"]
    assert (feed.published, feed.suppressed) == (1, 2)
    assert (handler.published, handler.suppressed) == (1, 2)


@FEEDS
@pytest.mark.parametrize("make_stream", [InMemoryStream, TopicStream, SSEStream])
@in_time
async def test_the_body_of_a_listening_loop_may_log(make, make_stream):
    stream = make_stream()
    feed = make(stream)
    ready, read = asyncio.Event(), []

    async def listen() -> None:
        async with stream.listen() as events:
            ready.set()
            async for event in events:
                read.append(event.topic)
                feed.log_again()
                await asyncio.sleep(0)
                feed.log_again()

    listening = asyncio.create_task(listen())
    await ready.wait()
    feed.log.warning("first")
    await until(lambda: feed.counts.suppressed == 2)
    await settle()
    assert (read, feed.numbers) == (["logs.warning"], (1, 2, 0))
    in_a_thread(lambda: feed.log.warning("from a thread"))
    await until(lambda: feed.counts.suppressed == 4)
    await settle()
    assert feed.numbers == (2, 4, 0)
    feed.log.warning("normal again")
    await until(lambda: feed.counts.suppressed == 6)
    assert feed.numbers == (3, 6, 0)
    await stream.aclose()
    await listening
    assert len(read) == 3


@FEEDS
@in_time
async def test_the_body_of_a_listening_loop_is_published_from_the_next_ordinary_event_on(make):
    stream = InMemoryStream()
    feed = make(stream)
    read = []

    async def listen() -> None:
        async for event in events:
            read.append(event.topic)
            feed.log_again()

    async with stream.listen() as events:
        listening = asyncio.create_task(listen())
        feed.log.warning("first")
        await until(lambda: len(read) == 1)
        await stream.publish(create_event(42, topic="orders"))
        await until(lambda: len(read) == 3)
        await settle()
        assert read == ["logs.warning", "orders", "logs.warning"]
        assert feed.numbers == (2, 2, 0)
    await listening


@FEEDS
@bounded
def test_the_guard_ends_when_a_handler_aborts_the_publishing(make):
    stream = InMemoryStream()
    feed = make(stream)

    def interrupt(event: Event) -> None:
        if event.data["event"] == "first":
            raise KeyboardInterrupt

    stream.subscribe_nowait(interrupt)
    with pytest.raises(KeyboardInterrupt):
        feed.log.warning("first")
    feed.log.warning("second")
    assert (feed.counts.published, feed.counts.suppressed) == (1, 0)
    assert len(stream.get_recent_events()) == 2


@FEEDS
@in_time
async def test_the_guard_applies_to_one_publisher_at_a_time(make):
    stream = InMemoryStream()
    feed = make(stream)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def take_long(event: Event) -> None:
        if event.data["event"] == "first":
            inside.set()
            await go_on.wait()
            feed.log_again()

    stream.subscribe_nowait(take_long)
    feed.log.warning("first")
    await inside.wait()
    feed.log.warning("by another")  # while the handler of the first one is running
    in_a_thread(lambda: feed.log.warning("by another thread"))
    assert feed.numbers == (3, 0, 0)
    go_on.set()
    await until(lambda: feed.counts.suppressed)
    await settle()
    assert feed.numbers == (3, 1, 0)


@in_time
async def test_a_log_event_forwarded_by_a_thread_causes_no_loop():
    stream, other = InMemoryStream(), InMemoryStream()
    feed, logger, _ = sink_that_logs_its_own_logs(stream)
    by_hand = by_stdlib(stream)
    inline = StructlogSink(logger, name=f"structlog-{next(_numbers)}")
    queued = Logging(lambda _: by_hand.log_again())

    def hand_on(event: Event) -> None:
        in_a_thread(lambda: other.publish_nowait(event))  # a thread has no context of its cause

    async def listen() -> None:
        async for _ in events:
            by_hand.log_again()

    stream.subscribe_nowait(hand_on)
    async with attach(other, inline, queued, policy=AT_ONCE) as attachment, other.listen() as events:
        listening = asyncio.create_task(listen())
        logger.warning("stock is low")
        await until(lambda: by_hand.counts.suppressed == 2)
        await attachment.flush()
        await settle()
        assert (feed.published, feed.suppressed) == (1, 1)
        assert by_hand.numbers == (0, 2, 0)
    await listening


# Everything is counted


@FEEDS
@bounded
def test_every_record_of_many_threads_is_published_suppressed_or_failed(make):
    stream = InMemoryStream()
    feed = make(stream)
    handled = count()

    def handle(_: Event) -> None:
        next(handled)
        feed.log.warning("again")

    stream.subscribe_nowait(handle)
    threads_count, rounds = 8, 100
    start = threading.Barrier(threads_count, timeout=DEADLINE)

    def log() -> None:
        start.wait()
        for _ in range(rounds):
            feed.log.warning("stock is low")
            fail_to_log(feed)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=log, daemon=True) for _ in range(threads_count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        sys.setswitchinterval(interval)
    total = threads_count * rounds
    assert feed.numbers == (total, total, total)
    assert (next(handled), stream.statistics().published) == (total, total)


def fail_to_log(feed: Feed) -> None:
    """Log values that cannot be published."""
    if isinstance(feed.counts, PublishLogs):
        feed.counts(None, "warning", {"event": "x", "exc_info": (1,)})
    else:
        feed.log.warning("%d", "no number")
