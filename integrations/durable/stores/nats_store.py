"""`NatsStore`: logs, leases and values in JetStream, the persistence of NATS."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from codomyrmex.integrations.durable.store import (
    READ_BYTES,
    Batch,
    Bounds,
    Retention,
    Stored,
    StoreError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.stores.nats_leases import DAY, NAME, PAGE, SCHEMA, WORD, NatsLeases
from codomyrmex.integrations.durable.stores.nats_link import (
    CHANGED,
    NO_STREAM,
    ApiError,
    Message,
    NobodyAnswersError,
    seconds_of,
)

_POLL = 2.0  # seconds after which a waiting process looks at a log, should it have missed a message
_REMEMBERED = 1_000  # producers


class _Newest(NamedTuple):
    """The newest batch of a producer; `sequence` is that of its last message, 0 if that was trimmed."""

    number: int
    first: int
    sequence: int


class NatsStore(NatsLeases):
    """A store in NATS with JetStream; the server must be of version 2.12.1 or newer.

    Each log is a JetStream stream. A process measures the leases of other owners by its own clock.

    Args:
        url: `nats://user:password@host:4222` or `nats://token@host:4222`, with `tls://` for TLS, or several
            hosts of a cluster: `nats://host1:4222,host2:4222`. `?prefix=` begins every name, `codomyrmex` by
            default; `?replicas=3` keeps what is new on three servers of a cluster.
        timeout: seconds to wait for any answer of the server.
        clock: measures the leases of other owners.

    Raises:
        StoreConfigError: the URL is malformed.
        ValueError: the timeout is not greater than 0.
    """

    def _forget(self) -> None:
        super()._forget()
        self._newest: dict[tuple[str, str], _Newest] = {}

    # Logs. The stream sequence is the position. The last message of each batch has a subject of its producer,
    # so that its sequence is the condition of the producer's next batch: an append that is repeated while the
    # first attempt is still under way is stored once. The server republishes the headers of these messages to
    # those who wait.

    def _stream(self, log: str) -> str:
        return f"{self._prefix}@{log.translate(WORD)}"

    def _subject(self, kind: str, name: str, *words: str) -> str:
        return ".".join((self._prefix, kind, name.translate(WORD), *words))

    async def create_log(self, log: str) -> Bounds:
        link = await self._connected()
        info = await link.create(
            self._stream(log),
            subjects=[self._subject("entry", log), self._subject("batch", log, "*")],
            republish={
                "src": self._subject("batch", log, ">"),
                "dest": self._subject("tail", log, ">"),
                "headers_only": True,
            },
            metadata={**SCHEMA, "epoch": secrets.token_hex(6)},
        )
        return self._bounds(log, info)

    def _bounds(self, log: str, info: Mapping[str, Any]) -> Bounds:
        state = info["state"]
        first = state["first_seq"] if state["messages"] else state["last_seq"] + 1
        # Without what JetStream stores for each message: 34 bytes, the subject and about 66 bytes of headers.
        size = state["bytes"] - state["messages"] * (100 + len(self._subject("entry", log)))
        epoch = info["config"].get("metadata", {}).get("epoch", "")
        return Bounds(epoch, first, state["last_seq"], max(size, state["messages"]))

    async def _info(self, log: str) -> dict[str, Any] | None:
        try:
            return await self._call(f"STREAM.INFO.{self._stream(log)}")
        except ApiError as error:
            if error.code == NO_STREAM:
                return None
            raise

    async def bounds(self, log: str) -> Bounds | None:
        info = await self._info(log)
        return self._bounds(log, info) if info else None

    async def logs(self) -> list[str]:
        names: list[str] = []
        while True:
            answer = await self._call("STREAM.NAMES", subject=f"{self._prefix}.entry.*", offset=len(names))
            names += answer["streams"] or []
            if not answer["streams"] or len(names) >= answer["total"]:
                return sorted(name.partition("@")[2].translate(NAME) for name in names if "@" in name)

    async def renew_epoch(self, log: str, epoch: str) -> Bounds:
        info = await self._info(log)
        if info is None:
            raise self._no_log(log)
        config = info["config"]
        if config["metadata"]["epoch"] == epoch:
            # It follows from the old one, so that two processes that do this at the same time agree.
            config["metadata"]["epoch"] = hashlib.sha256(epoch.encode()).hexdigest()[:12]
            info = await self._call(f"STREAM.UPDATE.{self._stream(log)}", **config)
        return self._bounds(log, info)

    def _no_log(self, log: str) -> StoreError:
        return StoreError(f"{self.url}: there is no log {log!r}; create it first")

    async def append(self, log: str, batch: Batch) -> int:
        try:
            return await self._append(log, batch)
        except NobodyAnswersError:
            if await self._info(log) is None:
                raise self._no_log(log) from None
            raise
        except ApiError as error:
            raise self._no_log(log) if error.code == NO_STREAM else error from None

    async def _append(self, log: str, batch: Batch) -> int:
        key = log, batch.producer
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            newest = self._newest.pop(key, None)
            if newest is None or newest.number >= batch.number:
                newest = await self._find_newest(*key)
            if newest.number == batch.number:
                return newest.first
            if newest.number > batch.number:
                raise StoreError(
                    f"{self.url}: batch {batch.number} of producer {batch.producer!r} is older than its "
                    "newest; a producer repeats only its newest batch"
                )
            try:
                return await self._publish(log, batch, newest)
            except ApiError as error:
                if error.code not in CHANGED:
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreUnavailableError(str(error)) from None

    async def _publish(self, log: str, batch: Batch, newest: _Newest) -> int:
        link = await self._connected()
        answer = await link.publish(self._messages(log, batch, newest))
        newest = _Newest(batch.number, answer["seq"] - len(batch.entries) + 1, answer["seq"])
        while len(self._newest) >= _REMEMBERED:
            del self._newest[next(iter(self._newest))]
        self._newest[log, batch.producer] = newest
        # For a repeat by another process after the batch has been trimmed.
        await link.tell(
            Message(
                self._subject("producer", log, batch.producer),
                f"{batch.number} {newest.first}".encode(),
                dict(DAY),
            )
        )
        return newest.first

    def _messages(self, log: str, batch: Batch, newest: _Newest) -> list[Message]:
        subject, headers = self._subject("entry", log), dict[str, str]()
        messages = [Message(subject, entry, headers) for entry in batch.entries]
        messages[-1] = Message(
            self._subject("batch", log, batch.producer),
            batch.entries[-1],
            {
                "Batch": f"{batch.number} {len(batch.entries)}",
                "Nats-Expected-Last-Subject-Sequence": str(newest.sequence),
            },
        )
        return messages

    async def _find_newest(self, log: str, producer: str) -> _Newest:
        link = await self._connected()
        found = await link.get(self._stream(log), last_by_subj=self._subject("batch", log, producer))
        if found is not None:
            number, count = found.headers["Batch"].split()
            return _Newest(int(number), found.sequence - int(count) + 1, found.sequence)
        record = await link.get(self._state, last_by_subj=self._subject("producer", log, producer))
        if record is not None:
            number, first = record.payload.decode().split()
            return _Newest(int(number), int(first), 0)
        return _Newest(0, 0, 0)

    async def read(self, log: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        link = await self._connected()
        tail = link.tails.get(self._subject("tail", log, "*"))
        known = tail.last if tail else 0
        entries: list[Stored] = []
        size = 0
        for found in await (await self._connected()).page(self._stream(log), limit, max_bytes, seq=after + 1):
            size += len(found.payload)
            # A gap in the middle: these entries were trimmed meanwhile; the next call begins after it.
            if entries and (size > max_bytes or found.sequence != entries[-1].position + 1):
                break
            entries.append(Stored(found.sequence, found.time, found.payload))
        if not entries and tail and tail.last == known:
            tail.last = min(known, after)  # the end of the log went back
        return entries

    async def wait(self, log: str, after: int, seconds: float) -> None:
        link, loop = await self._connected(), asyncio.get_running_loop()
        deadline = loop.time() + seconds
        tail = await link.follow(self._subject("tail", log, "*"))
        while tail.last <= after and loop.time() < deadline and not link.lost.done():
            if loop.time() >= tail.poll_at:
                tail.poll_at = loop.time() + _POLL
                info = await self._info(log)
                tail.move(info["state"]["last_seq"] if info else 0)
            else:
                until = min(deadline, tail.poll_at)
                await asyncio.wait(
                    (tail.news, link.lost), timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )

    async def trim(self, log: str, retention: Retention, keep_after: int) -> int:
        info = await self._info(log)
        if info is None:
            return 0
        bounds = self._bounds(log, info)
        first = int(max(bounds.first, bounds.last + 1 - min(retention.max_events, bounds.last)))
        oldest = seconds_of(info["ts"]) - retention.max_age
        if oldest > seconds_of(info["state"]["first_ts"]) and bounds.first <= bounds.last:
            when = datetime.fromtimestamp(oldest).astimezone().isoformat()
            found = await (await self._connected()).page(self._stream(log), 1, 1, start_time=when)
            first = max(first, found[0].sequence if found else bounds.last + 1)
        excess, position = bounds.size - retention.max_bytes, bounds.first - 1
        while excess > 0 and (part := await self.read(log, position, PAGE)):
            for entry in part:
                if excess <= 0:
                    break
                position, excess = entry.position, excess - len(entry.value)
        first = min(max(first, position + 1), keep_after + 1)
        if first <= bounds.first:
            return 0
        answer = await self._call(f"STREAM.PURGE.{self._stream(log)}", seq=first)
        return int(answer["purged"])
