"""`Letters`: the dead letters of a group that are not in their log yet."""

from __future__ import annotations

from uuid import uuid4

from codomyrmex.integrations.durable.entries import encode_letter, without_event
from codomyrmex.integrations.durable.store import Batch, StoreError, StoreUnavailableError

_LIMIT, _BYTES = 500, 4 * 1024 * 1024  # of the letters that are appended at once


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
        self._limit = _LIMIT
        self._failures = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, reason: str, attempts: int, entry: bytes) -> None:
        """Add the entry of an event, with the reason why it was given up after some attempts."""
        self._entries.append(encode_letter(self._group, reason, attempts, entry))

    def batch(self) -> Batch:
        """Return the oldest ones to append; the same batch until another method is called."""
        entries, size = self._entries[: self._limit], 0
        for count, entry in enumerate(entries):
            size += len(entry)
            if size > _BYTES and count:
                entries = entries[:count]
                break
        return Batch(self._producer, self._number, tuple(entries))

    def appended(self) -> None:
        """Forget the batch, which is in the log."""
        del self._entries[: len(self.batch().entries)]
        self._number += 1
        self._limit, self._failures = _LIMIT, 0

    def failed(self, error: StoreError) -> int:
        """Make a batch that the store refuses smaller; a single letter that it refuses loses its event.

        Returns:
            How often in a row the batch could not be appended.
        """
        self._failures += 1
        if isinstance(error, StoreUnavailableError):
            return self._failures
        count = len(self.batch().entries)
        self._number += 1
        self._limit = max(1, count // 2)
        if count == 1:
            self._entries[0] = without_event(self._entries[0])
        return self._failures

    def clear(self) -> None:
        """Forget the letters, which belong to another process now."""
        self._entries = []
        self._number += 1
