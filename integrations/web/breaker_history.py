"""The last changes of each circuit breaker, which the board does not keep."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from codomyrmex.streaming import Event

Key = tuple[Any, Any, Any]

_MOST = 1_000
_CHANGES = 20  # remembered for each


class BreakerHistory:
    """Learns from the events of a stream when each breaker changed, and to what. From any thread.

    The events are those of `service_mesh`, known here by their shape alone.
    """

    def __init__(self) -> None:
        self._breakers: OrderedDict[Key, deque[tuple[datetime, str]]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Learn from an event; what tells of no change is left out."""
        told = event.data
        if not isinstance(told, Mapping) or not {"breaker", "source", "kind"} <= told.keys():
            return
        key, state = (told["source"], told.get("service"), told["breaker"]), told.get("to_state")
        if not isinstance(state, str) or not all(isinstance(part, str | None) for part in key):
            return
        with self._lock:
            changes = self._breakers.get(key)
            if changes is None:
                if len(self._breakers) >= _MOST:
                    self._breakers.popitem(last=False)
                changes = self._breakers[key] = deque(maxlen=_CHANGES)
            if not changes or changes[-1][1] != state:
                self._breakers.move_to_end(key)
                changes.append((event.timestamp, str(state)))

    def of(self, source: str, service: str | None, breaker: str) -> list[tuple[datetime, str]]:
        """Give the changes of a breaker, oldest first: when, and to which state."""
        with self._lock:
            return list(self._breakers.get((source, service, breaker), ()))
