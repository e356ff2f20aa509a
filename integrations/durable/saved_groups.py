"""`Definition`, `SavedGroup` and `GroupInfo`: what is saved of a group, and what is shown of it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from codomyrmex.integrations.durable.entries import Place
from codomyrmex.integrations.durable.names import Names, decode_name, groups_prefix
from codomyrmex.integrations.durable.store import Store
from codomyrmex.streaming import Event


class Definition(msgspec.Struct, frozen=True):
    """What a group reads; all its members agree on it.

    Attributes:
        topic: the topic or pattern of its events.
        shards: how many parts it has, each of which one process reads at a time.
        shard_by: what events of the same shard have in common: `topic`, or a key of the metadata.
    """

    topic: str = "*"
    shards: int = 1
    shard_by: str = "topic"

    def shard_of(self, event: Event) -> int:
        """Return the shard of an event."""
        if self.shards == 1:
            return 0
        key = str(event.metadata.get(self.shard_by, ""))
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % self.shards


class Created(msgspec.Struct):
    """What is saved when a group is created."""

    definition: Definition
    epoch: str
    position: int  # at which it was created


class GroupInfo(NamedTuple):
    """The state of a group.

    Attributes:
        name: its name: that of a sink, or as passed to `subscribe`.
        topic: the topic or pattern of its events.
        shards: how many parts it has.
        holders: the processes that read it.
        position: the cursor up to which its events were delivered, the lowest of all shards.
        lag: the number of events after that position, those of other topics included.
        lag_seconds: the age of the oldest of them, 0 if there is none.
        missed: the number of events that were removed before it read them.
        dead: the number of dead letters that were neither replayed nor dropped.
    """

    name: str
    topic: str
    shards: int
    holders: tuple[str, ...]
    position: str
    lag: int
    lag_seconds: float
    missed: int
    dead: int


class SavedGroup(NamedTuple):
    """A group as it is saved in a store."""

    name: str
    definition: Definition
    places: Sequence[Place]
    dead: int  # the position up to which its dead letters were replayed or dropped

    def position(self, epoch: str) -> int:
        """Return the lowest position of all shards; 0 if the log has another epoch."""
        return min(place.position if place.epoch == epoch else 0 for place in self.places)


def encode_definition(definition: Definition, epoch: str, position: int) -> bytes:
    """Return the value that makes a group which begins at a position."""
    # A topic may be an instance of a subclass of str, which msgspec refuses.
    plain = Definition(str(definition.topic), definition.shards, str(definition.shard_by))
    return msgspec.json.encode(Created(plain, epoch, position))


async def load_groups(store: Store, stream: str) -> list[SavedGroup]:
    """Return the groups of a stream."""
    prefix = groups_prefix(stream)
    values = await store.load(prefix)
    groups = []
    for name, value in sorted(values.items()):
        encoded, _, kind = name.removeprefix(prefix).partition("/")
        if kind != "definition":
            continue
        saved = msgspec.json.decode(value, type=Created)
        names = Names(stream, decode_name(encoded))
        places = []
        for shard in range(saved.definition.shards):
            raw = values.get(f"{names.places}{shard}")
            created = Place(saved.epoch, saved.position)
            places.append(created if raw is None else msgspec.json.decode(raw, type=Place))
        dead = int(values.get(names.dead, b"0"))
        groups.append(SavedGroup(decode_name(encoded), saved.definition, places, dead))
    return groups
