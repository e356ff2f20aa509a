"""What the live page shows besides events: topics, sinks, breakers, alerts, silences, notifications."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable import DurableStream
from codomyrmex.integrations.web import paging
from codomyrmex.integrations.web.recent import RecentEvents
from codomyrmex.streaming import Clock, Event, InMemoryStream, Stream, Subscription
from codomyrmex.streaming.encoding import to_json

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink, Silence
    from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert
    from codomyrmex.integrations.notification.alerts.views import GroupView
    from codomyrmex.integrations.service_mesh import BreakerStatus

T = TypeVar("T")

ALERTS_TIMEOUT = 2.0  # seconds
_MAX_AGE = 0.5  # seconds for which pages share a snapshot
_IDLE_FACTOR = 10.0  # the pause after a snapshot, relative to the time it took
_MAX_EXPLANATIONS = 200  # kept
_MAX_WAITING = 20  # requests for explanations
_MAX_GROUPS = 100
_MAX_ALERTS = 50  # in a group
_MAX_BREAKERS = 200
_MAX_SILENCES = 100
_MAX_NOTIFICATIONS = 100
_MAX_HISTORIES = 1_000
_MAX_CHANGES = 20  # in a history
_MAX_TOPICS = 500
_MAX_TOPICS_SHOWN = 24
_RATE_SECONDS = 60

_log = Diagnostics(__name__)


class HasHealth(Protocol):
    """An object that reports the health of sinks: an attachment."""

    def health(self) -> Mapping[str, SinkHealth]:
        """Return the health of each sink by name."""


class Board(Protocol):
    """An object that knows the state of circuit breakers: a `CircuitBoard`."""

    def snapshot(self) -> Sequence[BreakerStatus]:
        """Return the status of all breakers."""


class BusyError(Exception):
    """Too many requests are waiting."""


class Snapshots:
    """Snapshots of everything but events, shared by all pages that ask at about the same time.

    Args:
        stream: provides its health if it is durable.
        attachment: provides the health of sinks.
        alerts: provides alerts, silences and the health of channels.
        board: provides the status of circuit breakers.
        clock: the clock.

    Attributes:
        history: the recent changes of circuit breakers.
    """

    def __init__(
        self,
        stream: Stream,
        attachment: HasHealth | None,
        alerts: AlertSink | None,
        board: Board | None,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._attachment = attachment
        self._alerts = alerts
        self._board = board
        self._clock = clock
        self._lock = asyncio.Lock()
        self._latest = b""
        self._due = float("-inf")  # when the next snapshot is taken
        self._labels: dict[str, Mapping[str, str]] = {}  # of the alerts in the latest snapshot
        self._problems: dict[str, str] = {}
        self._explaining = asyncio.Lock()
        self._waiting = 0
        self._explanations: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()
        self.history = BreakerHistory()
        self._notifications: deque[Event] | None = None
        self._recent: RecentEvents | None = None

    def watch(self, audit: Stream) -> Subscription:
        """Show the notifications on an audit stream; return the subscription to it."""
        if isinstance(audit, DurableStream):
            shown = self._notifications = deque(maxlen=_MAX_NOTIFICATIONS)
            self._recent = RecentEvents(audit, 1_000, lambda event, _: shown.append(event), "alerts.*")
            return self._recent.subscription
        recent = [e for e in recent_events(audit, 1_000) if (e.topic or "").startswith("alerts.")]
        self._notifications = deque(recent, _MAX_NOTIFICATIONS)
        return audit.subscribe_nowait(self._notifications.append, "alerts.*")

    async def get(self) -> bytes:
        """Return a recent snapshot as a JSON object; sections without a source are null."""
        async with self._lock:
            started = self._clock.monotonic()
            if started >= self._due:
                self._latest = to_json(await self._create()).encode()
                now = self._clock.monotonic()
                # However many pages ask, the sources spend most of their time on other work.
                self._due = now + max(_MAX_AGE, _IDLE_FACTOR * (now - started))
        return self._latest

    def invalidate(self) -> None:
        """Discard the snapshot, so that the next request makes a new one."""
        self._due = float("-inf")

    async def explain(self, fingerprint: str) -> dict[str, Any] | None:
        """Return where an alert is sent and why, or None if it does not exist.

        Raises:
            BusyError: too many explanations have been asked for.
            RuntimeError: the alert sink is not available.
        """
        if self._waiting >= _MAX_WAITING:
            raise BusyError("too many requests for explanations; try again soon")
        self._waiting += 1
        try:
            async with self._explaining:  # one at a time
                return await self._explain(fingerprint)
        finally:
            self._waiting -= 1

    async def _explain(self, fingerprint: str) -> dict[str, Any] | None:
        made_at, explanation = self._explanations.get(fingerprint, (float("-inf"), {}))
        if self._clock.monotonic() - made_at < _MAX_AGE:
            return explanation
        await self.get()
        if "alerts" in self._problems:
            raise RuntimeError(self._problems["alerts"])
        labels = self._labels.get(fingerprint)
        if labels is None or self._alerts is None:
            return None
        found = await run_on_sink_loop(self._alerts, lambda alerts: alerts.explain(labels))
        explanation = dict(paging.shown(found.to_dict()))
        self._explanations[fingerprint] = (self._clock.monotonic(), explanation)
        if len(self._explanations) > _MAX_EXPLANATIONS:
            self._explanations.popitem(last=False)
        return explanation

    async def _create(self) -> dict[str, Any]:
        problems: dict[str, str] = {}
        sources: dict[str, Callable[[], Awaitable[Any]]] = {
            "store": self._store,
            "sinks": self._sinks,
            "breakers": self._breakers,
            "alerts": self._groups,
            "notifications": self._notified,
        }
        sections: dict[str, Any] = {}
        for name, source in sources.items():
            try:
                sections[name] = await source()
            except Exception as error:  # noqa: BLE001 - a failing source must not hide the others
                _log.warning(name, "the state of %s is not available: %s", name, describe(error), error=error)
                sections[name], problems[name] = [], describe(error)
        self._problems = problems
        return {**sections, "problems": problems}

    async def _store(self) -> dict[str, Any] | None:
        if not isinstance(self._stream, DurableStream):
            return None
        health = self._stream.health()
        return {**health._asdict(), "problems": health.problems, "name": self._stream.name}

    async def _sinks(self) -> list[dict[str, Any]] | None:
        if self._attachment is None and self._alerts is None:
            return None
        sinks = [] if self._attachment is None else _healths(self._attachment.health(), None)
        if self._alerts is not None:
            sinks += _healths(self._alerts.health(), self._alerts.name)
        return paging.page(sinks)

    async def _breakers(self) -> list[dict[str, Any]] | None:
        if self._board is None:
            return None
        return paging.page(
            {**status._asdict(), "history": self.history.get(status.source, status.service, status.breaker)}
            for status in self._board.snapshot()[:_MAX_BREAKERS]
        )

    async def _notified(self) -> list[dict[str, Any]] | None:
        if self._notifications is None:
            return None
        if self._recent is not None:
            self._recent.update()
        return paging.page(event.to_dict() for event in reversed(tuple(self._notifications)))

    async def _groups(self) -> dict[str, Any] | None:
        if self._alerts is None:
            return None
        groups = await run_on_sink_loop(self._alerts, lambda alerts: alerts.groups())
        silences = await run_on_sink_loop(self._alerts, lambda alerts: alerts.silences())
        now = self._clock.time()
        self._labels = {alert.fingerprint: alert.labels for view in groups for alert in view.alerts}
        shown: list[dict[str, Any]] = []
        room = paging.MAX_SECTION
        for view in groups[:_MAX_GROUPS]:
            if room <= 0:
                break
            group, size = _group(view, silences, now, room)
            room -= size
            shown.append(group)
        return {
            "groups": shown,
            "others": len(groups) - len(shown),
            "silences": _silences(silences, now),
        }


def recent_events(stream: Stream, count: int) -> list[Event]:
    """Return the newest events of a stream, if it keeps those of all topics together."""
    return stream.get_recent_events(count) if isinstance(stream, InMemoryStream) else []


async def run_on_sink_loop(alerts: AlertSink, call: Callable[[AlertSink], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function with an alert sink on the sink's loop, which may not be the server's.

    Raises:
        RuntimeError: the sink is not open, or does not answer in time.
    """
    loop = alerts.loop
    if loop is None or loop.is_closed():
        raise RuntimeError(f"sink {alerts.name}: it is not open; attach it first")
    result: Awaitable[T]
    if loop is asyncio.get_running_loop():
        result = call(alerts)
    else:
        result = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(alerts), loop))
    try:
        return await asyncio.wait_for(result, ALERTS_TIMEOUT)
    except TimeoutError:
        raise RuntimeError(f"sink {alerts.name}: it did not answer within {ALERTS_TIMEOUT:g} s") from None


def _healths(healths: Mapping[str, SinkHealth], parent: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "of": parent, **health._asdict()} for name, health in healths.items()]


def _group(view: GroupView, silences: Iterable[Silence], now: float, room: int) -> tuple[dict[str, Any], int]:
    """Return a group as it is shown, and its size in characters of JSON."""
    alerts = paging.page(
        (
            {**alert.to_dict(), "suppressed": _suppression(alert, view.suppressed, silences, now)}
            for alert in view.alerts[:_MAX_ALERTS]
        ),
        room,
    )
    group = {
        **paging.shown(replace(view, alerts=(), suppressed={}).to_dict()),
        "alerts": alerts,
        "firing": sum(alert.status.value == "firing" for alert in view.alerts),
        "others": len(view.alerts) - len(alerts),
    }
    return group, len(to_json(group))


def _suppression(
    alert: NotifiedAlert, suppressed: Mapping[str, str], silences: Iterable[Silence], now: float
) -> dict[str, str] | None:
    """Return why an alert is suppressed, new silences included, which the engine applies a little later."""
    kind, _, source = suppressed.get(alert.fingerprint, "").partition(" ")
    if kind and kind != "silenced":
        return {"why": kind, "by": source}
    silence = next((silence for silence in silences if silence.silences(alert.labels, now)), None)
    return None if silence is None else {"why": "silenced", "by": silence.id}


def _silences(silences: Iterable[Silence], now: float) -> list[dict[str, Any]]:
    order = {"active": 0, "pending": 1, "expired": 2}
    shown = [
        {
            **silence.to_dict(),
            "state": silence.state(now).value,
            "matchers": [silence.condition()] if silence.other_matchers else list(map(str, silence.matchers)),
        }
        for silence in silences
    ]
    shown.sort(key=lambda silence: (order[silence["state"]], -silence["ends_at"]))
    return paging.page(shown[:_MAX_SILENCES])


class BreakerHistory:
    """The recent state changes of each circuit breaker, collected from events; thread-safe."""

    def __init__(self) -> None:
        self._histories: OrderedDict[tuple[Any, Any, Any], deque[tuple[datetime, str]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, event: Event) -> None:
        """Add the state change of an event as `service_mesh` creates it; ignore other events."""
        data = event.data
        if not isinstance(data, Mapping) or not {"breaker", "source", "kind"} <= data.keys():
            return
        key, state = (data["source"], data.get("service"), data["breaker"]), data.get("to_state")
        if not isinstance(state, str) or not all(isinstance(part, str | None) for part in key):
            return
        with self._lock:
            changes = self._histories.get(key)
            if changes is None:
                if len(self._histories) >= _MAX_HISTORIES:
                    self._histories.popitem(last=False)
                changes = self._histories[key] = deque(maxlen=_MAX_CHANGES)
            if not changes or changes[-1][1] != state:
                self._histories.move_to_end(key)
                changes.append((event.timestamp, str(state)))

    def get(self, source: str, service: str | None, breaker: str) -> list[tuple[datetime, str]]:
        """Return the times of changes and the new states of a breaker, oldest first."""
        with self._lock:
            return list(self._histories.get((source, service, breaker), ()))


class _Topic:
    __slots__ = ("seconds", "total")

    def __init__(self) -> None:
        self.total = 0
        self.seconds: Counter[int] = Counter()


class TopicRates:
    """The events of each topic per second; thread-safe.

    They are counted here rather than in the page, which would start at zero and miss events.
    """

    def __init__(self) -> None:
        self._topics: OrderedDict[str | None, _Topic] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def count(self, name: str | None, time: float) -> None:
        """Count an event that was published at a time, in seconds since 1970."""
        second = int(time)
        with self._lock:
            topic = self._topics.get(name)
            if topic is None:
                if len(self._topics) >= _MAX_TOPICS:
                    self._topics.popitem(last=False)
                topic = self._topics[name] = _Topic()
            self._topics.move_to_end(name)
            topic.total += 1
            topic.seconds[second] += 1
            if len(topic.seconds) > 2 * _RATE_SECONDS:
                recent = {s: count for s, count in topic.seconds.items() if s >= second - _RATE_SECONDS}
                topic.seconds = Counter(recent)

    def busiest(self, now: float, allow: Callable[[str | None], bool]) -> dict[str, Any]:
        """Return the topics with the most events in the last minute.

        Args:
            now: seconds since 1970.
            allow: returns whether a topic can be included.

        Returns:
            `shown`, the topics, each with its `total` and its `counts` per second; `others`, the number of
            further topics; `total` and `counts` of all topics together.
        """
        seconds = range(int(now) - _RATE_SECONDS, int(now))
        with self._lock:
            topics: list[dict[str, Any]] = [
                {"topic": name, "total": topic.total, "counts": [topic.seconds[s] for s in seconds]}
                for name, topic in self._topics.items()
                if allow(name)
            ]
        topics.sort(key=lambda topic: (-sum(topic["counts"]), -topic["total"], topic["topic"] or ""))
        sums = [sum(counts) for counts in zip(*(topic["counts"] for topic in topics), strict=True)]
        return {
            "shown": topics[:_MAX_TOPICS_SHOWN],
            "others": max(len(topics) - _MAX_TOPICS_SHOWN, 0),
            "counts": sums or [0] * _RATE_SECONDS,
            "total": sum(topic["total"] for topic in topics),
        }
