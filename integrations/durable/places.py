"""`PlaceSaver`: saves up to where the events of a group were delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from codomyrmex.integrations.delivery.worker import GRACE
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.group import Group
from codomyrmex.integrations.durable.shard import GroupSource, ShardReader
from codomyrmex.integrations.durable.store import StoreError, StoreUnavailableError

_RETRY = 0.1  # seconds until a place is saved again that could not be


class PlaceSaver:
    """Saves places, one at a time, while the next batch is being sent.

    So what is delivered again after a crash is at most what was in flight and the batch before it, also
    while the store is not available.

    Args:
        stream: the stream that the group reads.
        now: the source of time.
        warn: called with a message and an error.
    """

    def __init__(
        self, stream: GroupSource, now: Callable[[], float], warn: Callable[[str, StoreError], None]
    ) -> None:
        self._stream = stream
        self._now = now
        self._warn = warn
        self._saving: asyncio.Task[None] | None = None
        self._ending = False

    async def save(self, group: Group, shard: ShardReader, *, wait: bool = False) -> None:
        """Begin to save the place of a shard, once the one before is saved; `wait` waits for this one too."""
        await self._previous()
        if self._saving is None and shard.saved != shard.delivered:
            shard.saved, shard.saved_at = shard.delivered, self._now()
            place = Place(self._stream.tail.epoch, shard.delivered)
            self._saving = asyncio.create_task(self._save(group, shard, place))

        if wait:
            await self._previous()

    async def _previous(self) -> None:
        while not await self._is_saved() and not self._ending:
            pass

    def end(self) -> None:
        """Do not wait for a store that is not available any more."""
        self._ending = True

    async def finish(self, group: Group, shards: Iterable[ShardReader]) -> None:
        """Save all places, unless the store does not answer at once."""
        self.end()
        for shard in shards:
            if not await self._is_saved():
                break
            await self.save(group, shard)
        if not await self._is_saved() and self._saving is not None:
            self._saving.cancel()

    async def _is_saved(self) -> bool:
        """Wait a moment for the save that is under way, and return whether there is none now."""
        if self._saving is not None:
            done, _ = await asyncio.wait({self._saving}, timeout=GRACE / 2)
            if done:
                self._saving = None
        return self._saving is None

    async def _save(self, group: Group, shard: ShardReader, place: Place) -> None:
        while place.epoch == self._stream.tail.epoch:
            try:
                await self._stream.call(group.save(shard.number, shard.token, place))
            except StoreError as error:
                self._warn("sink %s: its position could not be saved", error)
                if not isinstance(error, StoreUnavailableError):
                    break
            else:
                return
            if self._ending or not group.is_held(shard.number, shard.token):
                break
            await asyncio.sleep(_RETRY)
        shard.saved = -1
