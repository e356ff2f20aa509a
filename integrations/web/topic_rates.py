"""How many events there were of each topic, second by second, for a minute."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

SECONDS = 60


class _Topic:
    __slots__ = ("seconds", "total")

    def __init__(self) -> None:
        self.total = 0
        self.seconds: deque[list[int]] = deque(maxlen=SECONDS + 1)  # of those with events: second, count

    def minute(self, now: int) -> list[int]:
        """Give the counts of the last full seconds, oldest first."""
        counts = [0] * SECONDS
        for second, count in self.seconds:
            place = second - now + SECONDS
            if 0 <= place < SECONDS:
                counts[place] = count
        return counts


class TopicRates:
    """Counts events by topic. From any thread.

    The page could count what it gets; but it would begin with nothing, and not know of what it missed.

    Args:
        most: how many topics are known; for one more the one goes that was quiet the longest.
    """

    def __init__(self, most: int = 500) -> None:
        self._most = most
        self._topics: OrderedDict[str | None, _Topic] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, topic: str | None, at: float) -> None:
        """Count an event.

        Args:
            topic: its topic.
            at: when it came, in seconds since 1970.
        """
        second = int(at)
        with self._lock:
            known = self._topics.get(topic)
            if known is None:
                if len(self._topics) >= self._most:
                    self._topics.popitem(last=False)
                known = self._topics[topic] = _Topic()
            else:
                self._topics.move_to_end(topic)
            known.total += 1
            if known.seconds and known.seconds[-1][0] == second:
                known.seconds[-1][1] += 1
            else:
                known.seconds.append([second, 1])

    def busiest(self, now: float, allow: Callable[[str | None], bool], most: int = 24) -> dict[str, Any]:
        """Give the topics with the most events in the last minute.

        Args:
            now: seconds since 1970.
            allow: which topics may be seen.
            most: how many to give.

        Returns:
            `shown`, a list of them, each with its `total` and its `counts`; `others`, how many topics more
            there are; and `counts` of all together.
        """
        with self._lock:
            known: list[dict[str, Any]] = [
                {"topic": name, "total": topic.total, "counts": topic.minute(int(now))}
                for name, topic in self._topics.items()
                if allow(name)
            ]
        together = [sum(counts) for counts in zip(*(each["counts"] for each in known), strict=True)]
        known.sort(key=lambda each: (-sum(each["counts"]), -each["total"], each["topic"] or ""))
        return {
            "shown": known[:most],
            "others": max(len(known) - most, 0),
            "counts": together or [0] * SECONDS,
            "total": sum(each["total"] for each in known),
        }
