"""`TestedAlerts`: an alert sink for a test. It sends nothing, and the test sets its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from codomyrmex.integrations.delivery.attachment import attach
from codomyrmex.integrations.notification.alerts.sink import AlertSink
from codomyrmex.streaming import Event, InMemoryStream, Stream
from codomyrmex.streaming.testing import FakeClock

_STEP = 60.0  # maximum seconds by which the clock is advanced at once


@dataclass(frozen=True)
class SentNotification:
    """A notification that would have been sent.

    Args:
        receiver: the name of the receiver.
        channel: the name of its channel, such as `oncall[0]`.
        status: `firing` or `resolved`.
        title: the rendered title.
        body: the rendered body.
        payload: the rendered fields of a native receiver, such as the attachments for Slack; None for others.
        data: the body of Alertmanager's webhook, with `groupLabels`, `alerts` and so on.
    """

    receiver: str
    channel: str
    status: str
    title: str
    body: str
    payload: Any
    data: Mapping[str, Any]


class TestedAlerts:
    """Runs an alert sink as a dry run, with a clock that stands still until `advance` is called.

    Args:
        config: as for `AlertSink`.
        sent: the list to which the notifications are added.
        stream: the stream of the application; a new one by default.
        options: other arguments of `AlertSink`.

    Attributes:
        sink: the alert sink.
        stream: the stream that it reads.
    """

    __test__ = False

    def __init__(
        self, config: Any, sent: list[SentNotification], stream: Stream | None = None, **options: Any
    ) -> None:
        self._sent = sent
        self._clock = FakeClock(epoch=time.time())
        self._audit = InMemoryStream(buffer_size=1)
        self.stream = InMemoryStream() if stream is None else stream
        self.sink = AlertSink(
            config, clock=self._clock, watch=False, audit=self._audit, dry_run=True, **options
        )
        self._attachment = attach(self.stream, self.sink)

    async def __aenter__(self) -> Self:
        self._audit.subscribe_nowait(self._add, "alerts.would_notify")
        await self._attachment.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._settle()
        before = len(self._sent)
        await self._attachment.aclose()
        del self._sent[before:]  # closing sends what is pending, which the test did not wait for

    async def publish(self, *events: Event) -> None:
        """Publish events, and wait until the sink has handled them and has sent what is due."""
        for event in events:
            await self.stream.publish(event)
        await self._settle()

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and wait until everything that becomes due is sent."""
        await self._settle()
        end = self._clock.monotonic() + seconds
        while (remaining := end - self._clock.monotonic()) > 0:
            ticks = [group.next_tick - self._clock.time() for group in await self.sink.groups()]
            self._clock.advance(min(remaining, _STEP, *(tick for tick in ticks if tick > 0)))
            await self._settle()

    async def _settle(self) -> None:
        await self.sink.flush()
        while any(part.queued or part.in_flight for part in self.sink.health().values()):  # noqa: ASYNC110
            await asyncio.sleep(0)  # lets the channels deliver
        await self.sink.flush()  # lets the engine handle the outcomes

    def _add(self, event: Event) -> None:
        data = event.data
        names = ("receiver", "channel", "status", "title", "body")
        known = {name: data[name] for name in names}
        self._sent.append(SentNotification(**known, payload=data.get("payload"), data=data["notification"]))
