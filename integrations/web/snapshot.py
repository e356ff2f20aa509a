"""What the live page shows beside the events: sinks, breakers, alerts, silences, what was notified."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.web.breaker_history import BreakerHistory
from codomyrmex.streaming import Clock, Event
from codomyrmex.streaming.diagnostics import Diagnostics

if TYPE_CHECKING:
    from codomyrmex.integrations.notification import AlertSink, Silence
    from codomyrmex.integrations.notification.alerts.notification import NotifiedAlert
    from codomyrmex.integrations.notification.alerts.views import GroupView
    from codomyrmex.integrations.service_mesh import BreakerStatus

T = TypeVar("T")

_FRESH = 0.5  # seconds that pages share what was asked for
_PATIENCE = 2.0  # seconds that the alerts may take to answer
_GROUPS = 100
_ALERTS = 50  # of a group
_BREAKERS = 200
_SILENCES = 100
_NOTIFICATIONS = 100

_log = Diagnostics(__name__)


class HasHealth(Protocol):
    """Knows how sinks are: an attachment."""

    def health(self) -> Mapping[str, SinkHealth]:
        """Tell how each is, by its name."""


class Board(Protocol):
    """Knows how circuit breakers are: a `CircuitBoard`."""

    def snapshot(self) -> Sequence[BreakerStatus]:
        """Give them all."""


class Snapshots:
    """Asks everybody how things are, once for all pages that want to know at about the same time.

    Args:
        attachment: for the sinks.
        alerts: for the alerts, their silences and their channels.
        board: for the breakers.
        history: what the breakers did before.
        clock: where the time comes from.

    Attributes:
        history: as given.
        notifications: the newest events of the audit stream; None where there is none.
    """

    def __init__(
        self,
        attachment: HasHealth | None,
        alerts: AlertSink | None,
        board: Board | None,
        history: BreakerHistory,
        clock: Clock,
    ) -> None:
        self._attachment = attachment
        self._alerts = alerts
        self._board = board
        self.history = history
        self._clock = clock
        self._asking = asyncio.Lock()
        self._found: dict[str, Any] = {}
        self._found_at = float("-inf")
        self.notifications: deque[Event] | None = None

    async def take(self) -> dict[str, Any]:
        """Give how everything is; what there is no source for is None."""
        async with self._asking:
            if self._clock.monotonic() - self._found_at >= _FRESH:
                self._found = await self._ask_all()
                self._found_at = self._clock.monotonic()
        return self._found

    def forget(self) -> None:
        """Ask anew the next time, as something was changed."""
        self._found_at = float("-inf")

    async def _ask_all(self) -> dict[str, Any]:
        problems: dict[str, str] = {}
        sections: dict[str, Callable[[], Awaitable[Any]]] = {
            "sinks": self._sinks,
            "breakers": self._breakers,
            "alerts": self._groups,
            "notifications": self._notified,
        }
        found: dict[str, Any] = {}
        for name, ask in sections.items():
            try:
                found[name] = await ask()
            except Exception as error:  # noqa: BLE001 - one that cannot be asked does not hide the others
                _log.warning(name, "the %s could not be asked: %s", name, describe(error), error=error)
                found[name], problems[name] = [], describe(error)
        return {**found, "problems": problems}

    async def _sinks(self) -> list[dict[str, Any]] | None:
        if self._attachment is None and self._alerts is None:
            return None
        shown = [] if self._attachment is None else _healths(self._attachment.health(), None)
        if self._alerts is not None:
            shown += _healths(self._alerts.health(), self._alerts.name)
        return shown

    async def _breakers(self) -> list[dict[str, Any]] | None:
        if self._board is None:
            return None
        return [
            {**status._asdict(), "history": self.history.of(status.source, status.service, status.breaker)}
            for status in self._board.snapshot()[:_BREAKERS]
        ]

    async def _notified(self) -> list[dict[str, Any]] | None:
        if self.notifications is None:
            return None
        return [event.to_dict() for event in reversed(tuple(self.notifications))]

    async def _groups(self) -> dict[str, Any] | None:
        if self._alerts is None:
            return None
        groups, silences = await on_its_loop(self._alerts, _both)
        now = self._clock.time()
        return {
            "groups": [_group(view, silences, now) for view in groups[:_GROUPS]],
            "others": max(len(groups) - _GROUPS, 0),
            "silences": _silences(silences, now),
        }


def notifications() -> deque[Event]:
    """Give a place for the newest events of an audit stream."""
    return deque(maxlen=_NOTIFICATIONS)


async def on_its_loop(alerts: AlertSink, ask: Callable[[AlertSink], Coroutine[Any, Any, T]]) -> T:
    """Ask an alert sink something on the loop that it runs on, which may be another than the server's.

    Raises:
        RuntimeError: it is not open, or takes too long.
    """
    loop: asyncio.AbstractEventLoop | None = getattr(alerts, "_loop", None)
    if loop is None or loop.is_closed():
        raise RuntimeError(f"the sink {alerts.name} is not open; attach it first")
    asking: Awaitable[T] = (
        ask(alerts)
        if loop is asyncio.get_running_loop()
        else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(alerts), loop))
    )
    try:
        return await asyncio.wait_for(asking, _PATIENCE)
    except TimeoutError:
        raise RuntimeError(f"the sink {alerts.name} took longer than {_PATIENCE:g} seconds") from None


async def _both(alerts: AlertSink) -> tuple[list[GroupView], list[Silence]]:
    return await alerts.groups(), await alerts.silences()


def _healths(healths: Mapping[str, SinkHealth], of: str | None) -> list[dict[str, Any]]:
    return [{"name": name, "of": of, **health._asdict()} for name, health in healths.items()]


def _group(view: GroupView, silences: Iterable[Silence], now: float) -> dict[str, Any]:
    shown = view.alerts[:_ALERTS]
    return {
        **replace(view, alerts=(), suppressed={}).to_dict(),
        "alerts": [
            {**alert.to_dict(), "suppressed": _why(alert, view.suppressed, silences, now)} for alert in shown
        ],
        "firing": sum(alert.status.value == "firing" for alert in view.alerts),
        "others": len(view.alerts) - len(shown),
    }


def _why(
    alert: NotifiedAlert, suppressed: Mapping[str, str], silences: Iterable[Silence], now: float
) -> dict[str, str] | None:
    """Tell why an alert is kept back. The engine looks at each tick; a silence is to be seen at once."""
    kind, _, by = suppressed.get(alert.fingerprint, "").partition(" ")
    if kind and kind != "silenced":
        return {"why": kind, "by": by}
    silence = next((each for each in silences if each.silences(alert.labels, now)), None)
    return None if silence is None else {"why": "silenced", "by": silence.id}


def _silences(silences: Iterable[Silence], now: float) -> list[dict[str, Any]]:
    """Give those that count first, then the newest of the others."""
    order = {"active": 0, "pending": 1, "expired": 2}
    shown = [
        {
            **silence.to_dict(),
            "state": silence.state(now).value,
            "matchers": [str(matcher) for matcher in silence.matchers],
        }
        for silence in silences
    ]
    shown.sort(key=lambda each: (order[each["state"]], -each["ends_at"]))
    return shown[:_SILENCES]
