"""`Letters`: the dead letters of a group that are not in their log yet."""

from __future__ import annotations

from uuid import uuid4

from codomyrmex.integrations.durable.entries import encode_letter
from codomyrmex.integrations.durable.store import Batch


class Letters:
    """Collects dead letters until they are appended to their log.

    Args:
        group: the name of the group that gives up the events.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._entries: list[bytes] = []
        self._producer = uuid4().hex
        self._number = 1

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, reason: str, attempts: int, entry: bytes) -> None:
        """Add the entry of an event, with the reason why it was given up after some attempts."""
        self._entries.append(encode_letter(self._group, reason, attempts, entry))

    def batch(self) -> Batch:
        """Return the batch to append; the same one until `clear` is called."""
        return Batch(self._producer, self._number, tuple(self._entries))

    def clear(self) -> None:
        """Forget the letters, which are in the log or belong to another process now."""
        self._entries = []
        self._number += 1
