"""`BreakerHistory`: the recent state changes of circuit breakers, collected from events."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from codomyrmex.streaming import Event
from codomyrmex.streaming.forks import renew_in_children

_MAX_HISTORIES = 1_000
_MAX_CHANGES = 200  # of a breaker, those of all instances together
_MAX_SHOWN = 20
_ORDER = {"closed": 1, "half_open": 2, "open": 3, "forced_open": 3, "ejected": 3}

_Key = tuple[str, str | None, str]


class _Change(NamedTuple):
    position: int
    time: datetime
    instance: str | None
    state: str


class BreakerHistory:
    """The recent state changes of each circuit breaker; thread-safe.

    Several processes can have an instance of a breaker. Together they are in the worst state of all of them.
    """

    def __init__(self) -> None:
        self._histories: OrderedDict[_Key, deque[_Change]] = OrderedDict()
        self._lock = threading.Lock()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the lock in a child process."""
        self._lock = threading.Lock()

    def add(self, event: Event, position: int = 0) -> None:
        """Add the state change of an event as `service_mesh` creates it; ignore other events.

        Args:
            event: the event.
            position: its position in a log; if it is not after the last one, the log is read again.
        """
        data = event.data
        if not isinstance(data, Mapping) or not {"breaker", "source", "kind"} <= data.keys():
            return
        key, state = (data["source"], data.get("service"), data["breaker"]), data.get("to_state")
        instance = data.get("instance")
        if not isinstance(state, str) or not all(isinstance(part, str | None) for part in (*key, instance)):
            return
        with self._lock:
            changes = self._histories.get(key)
            if changes is None:
                if len(self._histories) >= _MAX_HISTORIES:
                    self._histories.popitem(last=False)
                changes = self._histories[key] = deque(maxlen=_MAX_CHANGES)
            while changes and changes[-1].position >= position > 0:
                changes.pop()
            latest = next((change for change in reversed(changes) if change.instance == instance), None)
            if latest is None or latest.state != state:
                self._histories.move_to_end(key)
                changes.append(_Change(position, event.timestamp, instance, str(state)))

    def get(
        self, source: str, service: str | None, breaker: str, after: float = float("-inf")
    ) -> list[tuple[datetime, str]]:
        """Return the times of changes and the new states of a breaker, oldest first.

        Args:
            source: the library or mesh.
            service: the service.
            breaker: its name.
            after: a position; changes up to it are left out.
        """
        with self._lock:
            changes = [c for c in self._histories.get((source, service, breaker), ()) if c.position > after]
        states: dict[str | None, str] = {}
        found: list[tuple[datetime, str]] = []
        for change in changes:
            states[change.instance] = change.state
            state = max(states.values(), key=_severity)
            if not found or found[-1][1] != state:
                found.append((change.time, state))
        return found[-_MAX_SHOWN:]


def _severity(state: Any) -> int:
    return _ORDER.get(state, 0)
