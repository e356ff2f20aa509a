"""What real sinks and bad days do to the delivery: secrets in errors, odd exceptions, broken peers."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import math
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from codomyrmex.integrations import (
    DeadLetters,
    DeliveryPolicy,
    DroppedError,
    InlineSink,
    PartialDeliveryError,
    PermanentError,
    RetryableError,
    Sink,
    SinkReport,
    SinkState,
    attach,
    attach_blocking,
)
from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.streaming import Event, InMemoryStream, Overflow, StreamProcessor, create_event
from codomyrmex.streaming.testing import FakeClock, collect
from helpers import in_time, settle

_numbers = count()
NOW = DeliveryPolicy(batch_age=0, max_attempts=1, breaker_failures=100)
SECRET = "https://user:hunter2@db.example.org/"


class PanicError(BaseException):
    """An exception of an extension module, such as `pyo3_runtime.PanicException`."""


class Raising(InlineSink):
    """Raises an error in one of its methods."""

    def __init__(self, method: str, error: BaseException) -> None:
        self.name = f"raising-{next(_numbers)}"  # lines of one sink are rate-limited
        self._errors = {method: error}

    def _raise(self, method: str) -> None:
        if method in self._errors:
            raise self._errors[method]

    def emit(self, _: Event) -> None:
        self._raise("emit")

    async def open(self) -> None:
        self._raise("open")

    async def flush(self) -> None:
        self._raise("flush")

    async def close(self) -> None:
        self._raise("close")


class Recorder(Sink):
    """Keeps what it is sent, or raises what `fails` returns."""

    def __init__(self, fails: Callable[[], BaseException | None] = lambda: None) -> None:
        self.name = f"recorder-{next(_numbers)}"
        self.fails = fails
        self.sent: list[Any] = []

    async def send(self, events: Sequence[Event]) -> None:
        error = self.fails()
        if error is not None:
            raise error
        self.sent += [event.data for event in events]


def rendered(caplog: pytest.LogCaptureFixture) -> str:
    """Return all log lines as a formatter writes them, with what trackers would read from `exc_info`."""
    lines = [logging.Formatter().format(record) for record in caplog.records]
    return "\n".join(lines + [repr(record.exc_info) for record in caplog.records])


# Secrets and control characters in logs (S7, S18, S19)


@in_time
@pytest.mark.parametrize("method", ["emit", "flush", "close"])
async def test_no_method_of_a_sink_puts_a_secret_of_its_error_into_a_log(method, caplog):
    stream, sink = InMemoryStream(), Raising(method, ValueError(f"cannot reach {SECRET}"))
    async with attach(stream, sink) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
    log = rendered(caplog)
    assert "cannot reach" in log
    assert "hunter2" not in log
    assert "hunter2" not in str(attachment.health())


def test_diagnostics_log_a_traceback_with_its_causes_and_without_secrets(caplog):
    error = ValueError("token=abcdef is refused")
    error.__cause__ = OSError(f"no route to {SECRET}")
    Diagnostics("codomyrmex.test").warning("key", "a hook of %s failed", "x", error=error)
    log = rendered(caplog)
    assert log.startswith("a hook of x failed\nOSError: no route")
    assert "direct cause" in log
    assert "hunter2" not in log
    assert "abcdef" not in log
    assert [record.exc_info for record in caplog.records] == [None]


@in_time
@pytest.mark.parametrize("length", [2_450, *range(2_940, 3_000, 7), *range(99_950, 100_000, 7), 300_000])
async def test_an_error_is_searched_for_secrets_before_it_is_cut(length, caplog):
    error = RuntimeError(f"token={'x' * length} {SECRET}")
    stream, sink = InMemoryStream(), Recorder(lambda: error)
    async with attach(stream, sink, policy=NOW) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
        shown = attachment.health()[sink.name].last_error
    assert shown is not None
    assert "hunter2" not in shown
    assert "hunter2" not in rendered(caplog)


@in_time
async def test_control_characters_of_ids_and_errors_do_not_reach_a_terminal(caplog):
    stream, sink = InMemoryStream(), Raising("emit", ValueError("\x1b[2Jcleared"))
    async with attach(stream, sink):
        await stream.publish(create_event(1, id="a\x1b[31m\nWARNING forged"))
    log = rendered(caplog)
    assert "\x1b" not in log
    assert "cleared" in log


# Exceptions that are not derived from `Exception` (S13)


@in_time
@pytest.mark.parametrize("method", ["emit", "flush", "close"])
async def test_an_inline_sink_may_raise_any_exception_without_an_effect_on_others(method):
    stream, sink, other = InMemoryStream(), Raising(method, PanicError("panicked")), Recorder()
    async with attach(stream, sink, other) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
    assert other.sent == [1]
    assert attachment.report().sinks[sink.name].given_up == (method == "emit")


@in_time
async def test_what_must_end_the_program_passes_through_an_inline_sink_and_is_counted():
    stream, sink = InMemoryStream(), Raising("emit", KeyboardInterrupt())
    async with attach(stream, sink) as attachment:
        with pytest.raises(KeyboardInterrupt):
            await stream.publish(create_event(1))
        assert attachment.report().sinks[sink.name].dropped == {"interrupted": 1}


@in_time
async def test_an_exception_whose_text_raises_anything_is_described():
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise PanicError

    stream, sink = InMemoryStream(), Recorder(UnprintableError)
    async with attach(stream, sink, policy=NOW) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
        last_error = attachment.health()[sink.name].last_error
    assert last_error == "UnprintableError: <its message raised PanicError>"


@in_time
async def test_a_queued_sink_may_raise_any_exception_and_gets_the_next_batch():
    stream, errors = InMemoryStream(), [PanicError("panicked")]
    sink = Recorder(lambda: errors.pop() if errors else None)
    async with attach(stream, sink, policy=NOW) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
        await stream.publish(create_event(2))
    assert sink.sent == [2]


# Honest health: a sink that is `ok` has not lost anything (A5)


@in_time
async def test_a_sink_that_gave_up_events_is_losing_and_after_a_minute_degraded_but_not_ok_again():
    stream, clock, errors = InMemoryStream(), FakeClock(), [PermanentError("no such channel")]
    sink = Recorder(lambda: errors.pop() if errors else None)
    async with attach(stream, sink, policy=NOW, clock=clock) as attachment:
        await stream.publish(create_event(1))
        await settle()
        await stream.publish(create_event(2))
        await settle()
        health = attachment.health()[sink.name]
        assert (health.state, health.delivered, health.dead) == (SinkState.LOSING, 1, 1)
        assert health.last_loss is not None
        assert health.last_loss.timestamp() == clock.time()
        clock.advance(60)
        assert attachment.health()[sink.name].state is SinkState.DEGRADED


@in_time
@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_a_sink_whose_queue_overflows_is_losing(overflow):
    stream, clock, sink = InMemoryStream(), FakeClock(), Recorder()
    rules = DeliveryPolicy(queue_size=10, overflow=overflow, batch_age=1, max_wait=0)
    health_events = InMemoryStream()
    async with attach(stream, sink, policy=rules, clock=clock, health_stream=health_events) as attachment:
        for number in range(25):
            stream.publish_nowait(create_event(number))
        health = attachment.health()[sink.name]
        assert (health.state, health.dropped) == (SinkState.LOSING, {"queue_full": 15})
        await attachment.flush()
    changes = [event.data["to_state"] for event in health_events.get_recent_events()]
    assert changes == ["losing", "closed"]


@in_time
async def test_an_inline_sink_that_fails_or_refuses_is_losing_and_says_why():
    stream, failing = InMemoryStream(), Raising("emit", ValueError("no"))
    refusing = Raising("emit", DroppedError("not_open"))
    choosy = Raising("emit", DroppedError("no_span"))
    async with attach(stream, failing, refusing, choosy) as attachment:
        await stream.publish(create_event(1))
        health = attachment.health()
    assert health[failing.name].state is SinkState.LOSING
    assert health[failing.name].last_error == "ValueError: no"
    assert (health[refusing.name].state, health[refusing.name].delivered) == (SinkState.LOSING, 0)
    assert health[refusing.name].last_error == "events are dropped: not_open"
    assert not attachment.report().sinks[refusing.name].complete
    assert (health[choosy.name].state, health[choosy.name].last_error) == (SinkState.OK, None)


# Attached, but not started (A9)


@in_time
async def test_what_is_attached_but_not_started_says_so_in_its_health_and_warns_once(caplog):
    stream, queued, inline = InMemoryStream(), Recorder(), Raising("", ValueError())
    attachment = attach(stream, queued, inline)
    assert {health.state for health in attachment.health().values()} == {SinkState.NOT_STARTED}
    assert caplog.records == []
    for number in range(3):
        await stream.publish(create_event(number))
    for sink in (queued, inline):
        health = attachment.health()[sink.name]
        assert (health.state, health.dropped) == (SinkState.NOT_STARTED, {"not_started": 3})
        [line] = [record.getMessage() for record in caplog.records if sink.name in record.getMessage()]
        assert "not started; use `async with`" in line


def test_a_blocking_attachment_that_is_not_started_says_so_too(caplog):
    stream, sink = InMemoryStream(), Recorder()
    attachment = attach_blocking(stream, sink)
    stream.publish_nowait(create_event(1))
    assert attachment.health()[sink.name].state is SinkState.NOT_STARTED
    assert "not started" in rendered(caplog)


@in_time
async def test_events_that_were_published_before_the_start_are_counted_and_the_rest_is_delivered():
    stream, sink = InMemoryStream(), Recorder()
    attachment = attach(stream, sink, policy=NOW)
    await stream.publish(create_event(1))
    async with attachment:
        await stream.publish(create_event(2))
        assert attachment.health()[sink.name].state is SinkState.LOSING
    report = attachment.report().sinks[sink.name]
    assert (sink.sent, report.delivered, report.dropped) == ([2], 1, {"not_started": 1})


# Sinks that cannot be opened (C6)


class Opening(Recorder):
    """Fails to open a number of times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1
        if self.opened <= self.failures:
            raise ConnectionRefusedError(111, f"cannot connect to {SECRET}")


class OpeningInline(InlineSink):
    """Fails to open a number of times, and records what it is given in which context."""

    def __init__(self, failures: int) -> None:
        self.name = f"opening-{next(_numbers)}"
        self.failures = failures
        self.emitted: list[tuple[Any, str]] = []

    async def open(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError("the disk is full")

    def emit(self, event: Event) -> None:
        self.emitted.append((event.data, request.get()))


request: ContextVar[str] = ContextVar("request", default="")
PATIENT = DeliveryPolicy(batch_age=0, open="retry", backoff_initial=4, backoff_max=4)


@in_time
@pytest.mark.parametrize("sink", [Opening(1), OpeningInline(1)])
async def test_the_error_of_a_sink_that_cannot_be_opened_names_the_sink(sink):
    with pytest.raises(OSError, match=r"cannot connect|disk is full") as caught:
        await attach(InMemoryStream(), sink).start()
    assert f"sink {sink.name}: open() failed" in "".join(traceback.format_exception(caught.value))
    assert f"sink {sink.name}: open() failed" in describe(caught.value)


@in_time
async def test_a_sink_that_cannot_be_opened_is_opened_later_if_the_policy_is_to_retry():
    stream, clock, sink, other = InMemoryStream(), FakeClock(), Opening(2), Recorder()
    async with attach(stream, sink, other, policy=PATIENT, clock=clock) as attachment:
        await stream.publish(create_event(1))
        await settle()
        health = attachment.health()[sink.name]
        assert (health.state, health.queued) == (SinkState.NOT_OPEN, 1)
        assert health.last_error is not None
        assert health.last_error.startswith("ConnectionRefusedError")
        assert "hunter2" not in health.last_error
        assert health.next_attempt is not None
        assert clock.time() < health.next_attempt.timestamp() <= clock.time() + 4
        assert other.sent == [1]
        for _ in range(2):
            clock.advance(4)
            await settle()
        health = attachment.health()[sink.name]
        assert (health.state, health.next_attempt, sink.sent) == (SinkState.OK, None, [1])
    assert attachment.report().complete


@in_time
async def test_a_drain_tries_once_more_to_open_a_sink():
    stream, sink = InMemoryStream(), Opening(1)
    async with attach(stream, sink, policy=PATIENT, clock=FakeClock()):
        await stream.publish(create_event(1))
        await settle()
    assert sink.sent == [1]


@in_time
async def test_a_sink_that_is_never_opened_reports_its_events_as_lost():
    stream, sink = InMemoryStream(), Opening(1_000)
    async with attach(stream, sink, policy=PATIENT, clock=FakeClock()) as attachment:
        await stream.publish(create_event(1))
        await settle()
        report = await attachment.aclose(0)
    assert (report.sinks[sink.name].delivered, report.sinks[sink.name].lost) == (0, 1)


@in_time
async def test_an_inline_sink_gets_what_was_published_before_it_was_open_in_the_publishers_context():
    stream, clock, sink = InMemoryStream(), FakeClock(), OpeningInline(1)
    async with attach(stream, sink, policy=PATIENT, clock=clock) as attachment:
        request.set("r1")
        await stream.publish(create_event(1))
        request.set("r2")
        health = attachment.health()[sink.name]
        assert (health.state, health.queued, health.delivered) == (SinkState.NOT_OPEN, 1, 0)
        await settle()
        clock.advance(4)
        await settle()
        await stream.publish(create_event(2))
        assert sink.emitted == [(1, "r1"), (2, "r2")]
        assert attachment.health()[sink.name].state is SinkState.OK
    assert attachment.report().sinks[sink.name] == SinkReport(2, 0, {}, 0)


@in_time
async def test_an_inline_sink_that_is_never_open_drops_its_events_and_holds_a_bounded_number():
    stream, sink = InMemoryStream(), OpeningInline(1_000)
    rules = replace(PATIENT, queue_size=10)
    async with attach(stream, sink, policy=rules, clock=FakeClock()) as attachment:
        for number in range(15):
            await stream.publish(create_event(number))
        health = attachment.health()[sink.name]
        assert (health.queued, health.delivered, health.dropped) == (10, 0, {"not_open": 5})
        assert health.last_error == "OSError: the disk is full"
    assert attachment.report().sinks[sink.name] == SinkReport(0, 0, {"not_open": 15}, 0)


@pytest.mark.parametrize("value", ["later", None, True])
def test_a_policy_opens_a_sink_or_fails(value):
    with pytest.raises(ValueError, match=r"open: must be 'fail' or 'retry', got"):
        DeliveryPolicy(open=value)


# What the other side dictates has a limit (A11)


@in_time
async def test_a_requested_wait_is_limited_logged_and_shown_in_the_health(caplog):
    stream, clock, errors = InMemoryStream(), FakeClock(), [RetryableError("429", retry_after=30_000_000)]
    sink = Recorder(lambda: errors.pop() if errors else None)
    rules = DeliveryPolicy(batch_age=0, max_elapsed=10_000)
    async with attach(stream, sink, policy=rules, clock=clock) as attachment:
        await stream.publish(create_event(1))
        await settle()
        health = attachment.health()[sink.name]
        assert health.state is SinkState.RETRYING
        assert health.next_attempt is not None
        assert health.next_attempt.timestamp() == clock.time() + 3_600
        assert "requests a wait of 3e+07s, and is called again in 3600s" in rendered(caplog)
        clock.advance(3_600)
        await settle()
        health = attachment.health()[sink.name]
        assert (health.state, health.next_attempt, sink.sent) == (SinkState.OK, None, [1])


class Hanging(Sink):
    """Ignores its cancellation, and fails with a secret when it is told to go on."""

    def __init__(self, name: str, *, where: str) -> None:
        self.name = name
        self._where = where
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def open(self) -> None:
        await self._hang("open")

    async def send(self, _: Sequence[Event]) -> None:
        await self._hang("send")

    async def _hang(self, where: str) -> None:
        while where == self._where and not self.go_on.is_set():
            with suppress(asyncio.CancelledError):
                await self.go_on.wait()
        self.ended.set()
        if where == self._where:
            raise ValueError(SECRET)


@in_time
async def test_a_publisher_that_gives_up_does_not_keep_the_event_from_other_sinks():
    stream, got = InMemoryStream(), []

    async def send(events: Sequence[Event]) -> None:
        got.extend(event.data for event in events)

    hanging, other = Hanging("hanging", where="send"), Sink.from_function(send, name="other")
    policy = DeliveryPolicy(queue_size=2, batch_size=1, batch_age=0, drain_timeout=0, max_wait=60)
    async with attach(stream, hanging, other, policy=policy) as attachment:
        for number in range(4):
            publishing = asyncio.create_task(stream.publish(create_event(number)))
            await settle()
            publishing.cancel()
            await asyncio.wait({publishing})
        await settle()
        assert got == [0, 1, 2, 3]
        assert attachment.health()["other"].state is SinkState.OK
        hanging.go_on.set()


@pytest.mark.parametrize("inline", [True, False])
async def test_an_event_whose_filter_raises_is_lost_and_the_health_says_so(inline):
    sink: Any = Raising("none", ValueError()) if inline else Sink.from_function(_accept, name="filtered")
    stream = InMemoryStream()
    async with attach(stream, sink, filter_fn=lambda event: event.data["total"] > 1) as attachment:
        await stream.publish(create_event({"total": 2}))
        await stream.publish(create_event({"total": 1}))
        await stream.publish(create_event(3))
        await attachment.flush()
        health = attachment.health()[sink.name]
    assert (health.state, health.dropped) == (SinkState.LOSING, {"filter_failed": 1})
    assert "TypeError" in (health.last_error or "")
    report = attachment.report().sinks[sink.name]
    assert (report.delivered, report.lost, report.complete) == (1, 0, False)


async def _accept(_: Sequence[Event]) -> None:
    """Accept everything."""


@pytest.mark.parametrize("where", ["open", "send"])
@in_time
async def test_a_call_that_is_left_running_and_fails_later_shows_no_secret(where, caplog):
    sink, stream = Hanging(f"left-{where}", where=where), InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, drain_timeout=0, open="retry", backoff_initial=0)
    sink.go_on.set()  # the first `open` fails, if it is the one to fail
    attachment = await attach(stream, sink, policy=policy).start()
    sink.go_on.clear()
    sink.ended.clear()
    await stream.publish(create_event(1))
    await settle()  # now it hangs
    await attachment.aclose()
    sink.go_on.set()
    await sink.ended.wait()
    await settle()
    del sink, attachment
    gc.collect()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "limits", [{"breaker_reset": math.inf}, {"breaker_reset": 1e15}, {"retry_after_max": math.inf}]
)
async def test_a_wait_without_an_end_can_be_shown(limits):
    async def send(_: Sequence[Event]) -> None:
        raise RetryableError("busy", retry_after=math.inf)

    letters, stream = DeadLetters(), InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, breaker_failures=1, drain_timeout=0, **limits)
    sink = Sink.from_function(send, name=f"endless-{next(_numbers)}")
    async with attach(stream, sink, policy=policy, dead_letters=letters) as attachment:
        await stream.publish(create_event(1))
        await settle()
        next_attempt = attachment.health()[sink.name].next_attempt
        assert next_attempt is not None
        assert next_attempt.year > datetime.now(UTC).year or "breaker_reset" not in limits
    assert [letter.attempts for letter in letters] == [1]


class NoFailedError(PartialDeliveryError):
    """Lacks what its base class has."""

    def __init__(self) -> None:
        Exception.__init__(self)


class OddFailedError(PartialDeliveryError):
    def __init__(self) -> None:
        self.failed = 5  # type: ignore[assignment]


class OddRetryAfterError(RetryableError):
    def __init__(self) -> None:
        Exception.__init__(self)

    @property
    def retry_after(self) -> float:  # type: ignore[override]
        raise ValueError("not now")


@pytest.mark.parametrize("kind", [NoFailedError, OddFailedError, OddRetryAfterError])
@in_time
async def test_an_odd_error_of_a_sink_is_retried_as_any_other(kind):
    errors = [kind()]

    async def send(_: Sequence[Event]) -> None:
        if errors:
            raise errors.pop()

    stream = InMemoryStream()
    policy = DeliveryPolicy(batch_age=0, backoff_initial=0)
    async with attach(stream, Sink.from_function(send, name="odd"), policy=policy) as attachment:
        await stream.publish(create_event(1))
        await attachment.flush()
        assert attachment.health()["odd"].state is SinkState.OK
    assert attachment.report().sinks["odd"].delivered == 1


@pytest.mark.parametrize(
    "text",
    [
        "{'Authorization': 'Token hunter2'}",
        "(b'authorization', b'Basic hunter2')",
        '{"Cookie": "sid=hunter2; a=b"}',
        "<CIMultiDictProxy('Set-Cookie': 'sid=hunter2')>",
        "PWD=hunter2;UID=sa",
        "AccountName=a;AccountKey=hunter2==;EndpointSuffix=e",
        "SharedAccessKey=hunter2",
        "AWS_SECRET_ACCESS_KEY: hunter2",
    ],
)
def test_headers_in_containers_and_keys_of_cloud_services_are_not_shown(text):
    assert "hunter2" not in describe(ValueError(text))
    assert "[redacted]" in describe(ValueError(text))


async def test_a_dead_letter_of_a_processor_contains_no_secret():
    source, letters = InMemoryStream(), InMemoryStream()

    def fail(event: Event) -> Event:
        raise ValueError("password=hunter2")

    await StreamProcessor(source).map(fail).dead_letters(letters).start()
    with collect(letters) as received:
        await source.publish(create_event(1))
    assert "ValueError: password=" in received[0].data["reason"]
    assert "hunter2" not in received[0].data["reason"]


@in_time
async def test_a_payload_that_changes_after_publish_changes_for_queued_sinks_unless_it_is_a_copy():
    """As the guide says: payloads are held by reference."""
    stream, sent = InMemoryStream(), []

    async def send(events: Sequence[Event]) -> None:
        sent.extend(event.data["n"] for event in events)

    data = {"n": 1}
    async with attach(stream, Sink.from_function(send, name="queued"), policy=NOW):
        stream.publish_nowait(create_event(data))
        stream.publish_nowait(create_event(copy.deepcopy(data)))
        data["n"] = 2
    assert sent == [2, 1]
