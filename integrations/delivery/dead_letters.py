"""Dead letters: events that were given up after at least one attempt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from codomyrmex.integrations.delivery.health import origin_for
from codomyrmex.streaming import Event, EventType, InMemoryStream, Stream, TopicStream, create_event
from codomyrmex.streaming.forks import renew_in_children
from codomyrmex.streaming.provenance import ORIGIN, marked

_TOPIC = "dead_letter"
_EVERYTHING = 1_000_000  # events


class DeadLetter(NamedTuple):
    """An event that was given up.

    Attributes:
        event: the event.
        sink: the name of the sink.
        reason: the last error in one line without secrets.
        attempts: how often the event was sent.
        first_attempt: when it was first sent.
        died_at: when it was given up.
    """

    event: Event
    sink: str
    reason: str
    attempts: int
    first_attempt: datetime
    died_at: datetime


class DeadLetters:
    """A bounded, thread-safe collection of the newest dead letters; iterates over a snapshot.

    Args:
        max_size: how many are kept; the oldest is evicted for a new one.

    Attributes:
        evicted: how many were evicted.

    Raises:
        ValueError: the size is below 1.
    """

    def __init__(self, max_size: int = 1_000) -> None:
        if not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size: must be at least 1, got {max_size!r}")
        self.evicted = 0
        self._letters: deque[DeadLetter] = deque()
        self._max_size = max_size
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent process may hold."""
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._letters)

    def __bool__(self) -> bool:
        return True  # also while it is empty, so that `if dead_letters` means "is not None"

    def __iter__(self) -> Iterator[DeadLetter]:
        with self._lock:
            return iter(tuple(self._letters))

    def put(self, letter: DeadLetter) -> None:
        """Keep a dead letter."""
        with self._lock:
            if len(self._letters) >= self._max_size:
                self._letters.popleft()
                self.evicted += 1
            self._letters.append(letter)

    def get_all(self, sink: str | None = None) -> list[DeadLetter]:
        """Remove and return all dead letters, or all of one sink, oldest first."""
        with self._lock:
            removed = [letter for letter in self._letters if sink in {None, letter.sink}]
            self._letters = deque(letter for letter in self._letters if sink not in {None, letter.sink})
        return removed


def letter_event(sink: object, letter: DeadLetter) -> Event:
    """Return the event that is published for a dead letter of a sink."""
    return create_event(
        letter._asdict(),
        EventType.ERROR,
        topic=_TOPIC,
        sink=letter.sink,
        **{ORIGIN: marked(origin_for(sink))},
    )


def is_dead_letter(event: Event) -> bool:
    """Return whether an event was made by `letter_event`, so that it does not become a dead letter itself."""
    return "sink" in event.metadata and event.topic == _TOPIC


def letter_of(event: Event) -> DeadLetter | None:
    """Return the dead letter that an event was published for, or None."""
    data = event.data
    if not isinstance(data, dict) or set(data) != set(DeadLetter._fields):
        return None
    letter = DeadLetter(**data)
    return letter if isinstance(letter.event, Event) else None


def letters_in(stream: Stream) -> list[DeadLetter]:
    """Return the dead letters among the recent events of a stream.

    Raises:
        TypeError: the stream keeps no events.
    """
    if isinstance(stream, InMemoryStream):
        events = stream.get_recent_events(_EVERYTHING)
    elif isinstance(stream, TopicStream):
        events = stream.get_recent_events(_TOPIC, _EVERYTHING)
    else:
        raise TypeError(f"dead_letters: {type(stream).__name__} keeps no events; pass the dead letters")
    return [letter for event in events if (letter := letter_of(event)) is not None]
