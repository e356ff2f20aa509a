"""`TopicRates`: the events of each topic per second."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

from codomyrmex.streaming.forks import renew_in_children

_MAX_TOPICS = 500
_MAX_TOPICS_SHOWN = 24
_RATE_SECONDS = 60


class _Topic:
    __slots__ = ("seconds", "total")

    def __init__(self) -> None:
        self.total = 0
        self.seconds: Counter[int] = Counter()


class TopicRates:
    """The events of each topic per second; thread-safe.

    They are counted here rather than in the page, which would start at zero and miss events.

    Args:
        window: how many of the newest events are in the totals; None for all that were counted.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.after_fork()
        self.clear()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Renew the lock in a child process."""
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Begin again."""
        with self._lock:
            self._newest: deque[str | None] = deque()  # the topics of the events in the totals
            self._topics: OrderedDict[str | None, _Topic] = OrderedDict()  # least recently used first

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
            if self.window is not None:
                self._newest.append(name)
                if len(self._newest) > self.window:
                    self._leave(self._newest.popleft())
            topic.seconds[second] += 1
            if len(topic.seconds) > 2 * _RATE_SECONDS:
                recent = {s: count for s, count in topic.seconds.items() if s >= second - _RATE_SECONDS}
                topic.seconds = Counter(recent)

    def _leave(self, name: str | None) -> None:
        topic = self._topics.get(name)
        if topic is not None and topic.total:
            topic.total -= 1

    def busiest(self, now: float, allow: Callable[[str | None], bool]) -> dict[str, Any]:
        """Return the topics with the most events in the last minute.

        Args:
            now: seconds since 1970.
            allow: returns whether a topic can be included.

        Returns:
            `shown`, the topics, each with its `total` and its `counts` per second; `others`, the number of
            further topics; `total` and `counts` of all topics together; `window`, of how many events the
            totals are.
        """
        seconds = range(int(now) - _RATE_SECONDS, int(now))
        with self._lock:
            topics: list[dict[str, Any]] = [
                {"topic": name, "total": topic.total, "counts": [topic.seconds[s] for s in seconds]}
                for name, topic in self._topics.items()
                if allow(name)
            ]
        topics = [topic for topic in topics if topic["total"] or any(topic["counts"])]
        topics.sort(key=lambda topic: (-sum(topic["counts"]), -topic["total"], topic["topic"] or ""))
        sums = [sum(counts) for counts in zip(*(topic["counts"] for topic in topics), strict=True)]
        return {
            "shown": topics[:_MAX_TOPICS_SHOWN],
            "others": max(len(topics) - _MAX_TOPICS_SHOWN, 0),
            "counts": sums or [0] * _RATE_SECONDS,
            "total": sum(topic["total"] for topic in topics),
            "window": self.window,
        }
