"""Exceptions and payloads whose own methods raise: none of that reaches a loop, a log call or a publisher."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import count

import pytest
import structlog
from codomyrmex.integrations import (
    DeliveryPolicy,
    InlineSink,
    PartialDeliveryError,
    RetryableError,
    Sink,
    SinkProblem,
    SinkState,
    attach,
    attach_blocking,
)
from codomyrmex.integrations.logging_monitoring import PublishLogs, StreamLogHandler, redact
from codomyrmex.integrations.logging_monitoring.attributes import attributes_of
from codomyrmex.integrations.logging_monitoring.structlog_sink import StructlogSink
from codomyrmex.streaming import Event, EventType, InMemoryStream, StreamProcessor, create_event
from codomyrmex.streaming.encoding import to_json
from helpers import in_time, until

POLICY = DeliveryPolicy(
    batch_age=0, max_attempts=2, backoff_initial=0.001, backoff_max=0.001, breaker_failures=99, open="retry"
)
_numbers = count()


class PanicError(BaseException):
    """An exception of an extension module."""


RAISED = [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, RecursionError, PanicError]
# A signal handler may raise the first two at any moment, so a payload that raises them ends the program.
FOREIGN = RAISED[2:]


class Hostile:
    """An object whose methods raise."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __str__(self) -> str:
        raise self._kind("said the object")

    __repr__ = __str__


class BrokenError(RetryableError):
    """An exception without a message that could be shown."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__("")
        self._kind = kind

    def __str__(self) -> str:
        raise self._kind("said the exception")

    __repr__ = __str__


def with_a_broken_note(kind: type[BaseException]) -> RetryableError:
    error = RetryableError("the message")
    error.__notes__ = [Hostile(kind)]  # type: ignore[list-item]
    return error


class _Raising:
    """Raises an error in one of its methods."""

    def __init__(self, method: str, error: BaseException) -> None:
        self.name = f"{method} {next(_numbers)}"  # log lines of one sink are rate-limited
        self._errors = {method: error}

    def call(self, method: str) -> None:
        if method in self._errors:
            raise self._errors[method]

    async def open(self) -> None:
        self.call("open")

    async def close(self) -> None:
        self.call("close")


class Inline(_Raising, InlineSink):
    def emit(self, _: Event) -> None:
        self.call("emit")

    async def flush(self) -> None:
        self.call("flush")


class Queued(_Raising, Sink):
    async def send(self, events: Sequence[Event]) -> None:
        self.call("send")
        if "partial" in self._errors:
            raise PartialDeliveryError({event.id: self._errors["partial"] for event in events})


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("error", [BrokenError, with_a_broken_note])
@pytest.mark.parametrize("method", ["open", "send", "partial", "emit", "flush", "close"])
@in_time
async def test_an_exception_that_cannot_be_described_affects_no_other_sink(method, error, kind):
    stream, letters, delivered = InMemoryStream(), InMemoryStream(), []

    async def send(events: Sequence[Event]) -> None:
        delivered.extend(event.data for event in events)

    bad = Inline(method, error(kind)) if method in {"emit", "flush"} else Queued(method, error(kind))
    good = Sink.from_function(send, name="good")
    async with attach(stream, bad, good, policy=POLICY, dead_letters=letters) as attachment:
        for number in range(3):
            await stream.publish(create_event(number))
        await until(lambda: len(delivered) == 3)
        if method != "open":
            assert await attachment.flush()
        health = attachment.health()
        drained = await attachment.aclose(0.1)
    assert delivered == [0, 1, 2]
    assert drained.sinks["good"].complete
    assert method in {"close", "partial"} or f"raised {kind.__name__}>" in str(health[bad.name].last_error)
    assert all(f"raised {kind.__name__}>" in event.data["reason"] for event in letters.get_recent_events())


@in_time
async def test_a_sink_that_cannot_say_what_is_wrong_is_degraded():
    class Silent(Inline):
        def problem(self) -> SinkProblem | None:
            raise PanicError("no idea")

    sink = Silent("none", RetryableError(""))
    async with attach(InMemoryStream(), sink) as attachment:
        health = attachment.health()[sink.name]
    assert (health.state, health.last_error) == (SinkState.DEGRADED, "PanicError: no idea")


@pytest.mark.parametrize("kind", FOREIGN)
@in_time
async def test_an_interceptor_that_raises_anything_loses_no_event(kind):
    stream, received = InMemoryStream(), []
    stream.subscribe_nowait(lambda event: received.append(event.data))

    def fail(_: Event) -> Event:
        raise BrokenError(kind)

    def panic(_: Event) -> Event:
        raise PanicError("no")

    stream.add_interceptor(fail)
    stream.add_interceptor(panic)
    await stream.publish(create_event(1))
    stream.publish_nowait(create_event(2))
    assert received == [1, 2]
    assert stream.statistics().handler_errors == 4


@pytest.mark.parametrize("kind", RAISED)
@in_time
async def test_a_dead_letter_names_an_exception_that_cannot_be_described(kind):
    source, letters, received = InMemoryStream(), InMemoryStream(), []
    letters.subscribe_nowait(lambda event: received.append(event.data["reason"]))

    def fail(_: Event) -> Event:
        raise BrokenError(kind)

    processor = StreamProcessor(source).map(fail).dead_letters(letters)
    await processor.start()
    await source.publish(create_event(1))
    await processor.stop()
    assert received == [f"BrokenError: <its message raised {kind.__name__}>"]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_payload_that_raises_anything_is_still_json(kind):
    hostile = Hostile(kind)
    name = f"<Hostile whose repr raised {kind.__name__}>"
    assert to_json(hostile) == f'"{name}"'
    assert to_json({"a": [1, hostile]}) == f'{{"a":[1,"{name}"]}}'
    assert to_json({hostile: 1}) == f'{{"{name}":1}}'
    event = Event(data=hostile, metadata={"topic": "t", "event": hostile, "value": hostile})
    assert name in event.to_sse()
    assert attributes_of(event)["event.data"] == name
    error = Event(data=BrokenError(kind), type=EventType.ERROR)
    assert attributes_of(error)["exception.message"] == f"<its message raised {kind.__name__}>"
    clean = redact()(Event(data={"password": "hunter2", "error": BrokenError(kind)}))
    assert "hunter2" not in clean.to_sse()
    lines: list[str] = []
    logger = structlog.wrap_logger(_Lines(lines), processors=[structlog.processors.JSONRenderer()])
    StructlogSink(logger).emit(event)
    assert "<Hostile>" in lines[0]


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self.info = lines.append


@pytest.mark.parametrize("kind", [Exception, *FOREIGN])
def test_logging_never_raises_what_a_record_does(kind):
    stream = InMemoryStream()
    handler, feed = StreamLogHandler(stream, "info"), PublishLogs(stream, "info")
    logger = logging.getLogger(f"hostile {kind.__name__}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    hostile = Hostile(kind)
    logger.info(hostile)
    logger.info("%s", hostile)
    logger.info({"event": hostile})
    logger.info("x", extra={"value": hostile, "level": hostile})
    logger.info("x", exc_info=BrokenError(kind))
    assert (handler.published, handler.failed) == (3, 2)
    record = {"event": "x", "level": hostile, "exc_info": BrokenError(kind)}
    assert feed(None, "info", record) is record
    assert (feed.published, feed.failed) == (1, 0)


@pytest.mark.parametrize("kind", [Inline, Queued])
@pytest.mark.parametrize("method", ["open", "send", "flush", "close"])
@in_time
async def test_a_sink_that_calls_sys_exit_ends_no_event_loop(method, kind):
    stream, delivered = InMemoryStream(), []

    async def send(events: Sequence[Event]) -> None:
        delivered.extend(event.data for event in events)

    bad = kind(method, SystemExit(3))
    async with attach(stream, bad, Sink.from_function(send, name="good"), policy=POLICY) as attachment:
        await stream.publish(create_event(1))
        await until(lambda: delivered == [1])
        if method != "open":
            await attachment.flush()
        await attachment.aclose(0.1)
    with attach_blocking(stream, bad, policy=POLICY) as blocking:
        stream.publish_nowait(create_event(2))
        await asyncio.to_thread(blocking.flush, 0.1)
        await asyncio.to_thread(blocking.close, 0.1)
    with pytest.raises(RetryableError, match=r"open\(\) raised SystemExit"):
        await attach(stream, kind("open", SystemExit(3))).start()
