"""Dead letters: the events that a sink was tried with and that were given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from codomyrmex.integrations.delivery.health import origin_for
from codomyrmex.streaming import Event, EventType, create_event
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.provenance import ORIGIN, marked


class DeadLetter(NamedTuple):
    """An event that was given up.

    Attributes:
        event: what was to be delivered.
        sink: the name of the sink.
        reason: what went wrong last, in a line without secrets.
        attempts: how often it was tried.
        first_attempt: when it was tried first.
        died_at: when it was given up.
    """

    event: Event
    sink: str
    reason: str
    attempts: int
    first_attempt: datetime
    died_at: datetime


class DeadLetters:
    """Keeps the newest dead letters. From any thread; iterating goes over those there are now.

    Args:
        max_size: how many it keeps; the oldest goes for a newer one, and is counted.

    Attributes:
        evicted: how many had to go.

    Raises:
        ValueError: the size is below 1.
    """

    def __init__(self, max_size: int = 1_000) -> None:
        if not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size is at least 1, not {max_size}")
        self.evicted = 0
        self._letters: deque[DeadLetter] = deque()
        self._max_size = max_size
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Take a lock that no thread of the parent process holds."""
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._letters)

    def __bool__(self) -> bool:
        return True  # a place for letters, also while there are none

    def __iter__(self) -> Iterator[DeadLetter]:
        with self._lock:
            return iter(tuple(self._letters))

    def put(self, letter: DeadLetter) -> None:
        """Keep a letter."""
        with self._lock:
            if len(self._letters) >= self._max_size:
                self._letters.popleft()
                self.evicted += 1
            self._letters.append(letter)

    def take(self, sink: str | None = None) -> list[DeadLetter]:
        """Take out all letters, or all of one sink, oldest first."""
        with self._lock:
            taken = [letter for letter in self._letters if sink in (None, letter.sink)]
            self._letters = deque(letter for letter in self._letters if sink not in (None, letter.sink))
        return taken


def letter_event(sink: object, letter: DeadLetter) -> Event:
    """Make the event that a stream of dead letters gets."""
    return create_event(
        letter._asdict(),
        EventType.ERROR,
        topic="dead_letter",
        sink=letter.sink,
        **{ORIGIN: marked(origin_for(sink))},
    )


def letter_of(event: Event) -> DeadLetter | None:
    """Read a dead letter back from the event of a stream; None where it is something else."""
    data = event.data
    if not isinstance(data, dict) or set(data) != set(DeadLetter._fields):
        return None
    letter = DeadLetter(**data)
    return letter if isinstance(letter.event, Event) else None
