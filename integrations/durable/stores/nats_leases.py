"""The part of `NatsStore` that is not about logs: the connection, leases and values."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from codomyrmex.integrations.durable.store import (
    READ_BYTES,
    Lease,
    LeaseLostError,
    Store,
    StoreConfigError,
    StoreUnavailableError,
)
from codomyrmex.integrations.durable.stores.nats_link import (
    CHANGED,
    HEADROOM,
    NO_STREAM,
    ApiError,
    Found,
    Link,
    Message,
    NobodyAnswersError,
)
from codomyrmex.integrations.durable.stores.nats_url import parse_url
from codomyrmex.streaming.clock import SYSTEM_CLOCK, Clock

SCHEMA = {"version": "1", "compatible_since": "1"}  # of streams and subjects, in their metadata
DAY = {"Nats-TTL": "24h"}  # for what only says that something ended, or who appended
WORD = str.maketrans("./:", "+~=")  # characters that names of streams and words of subjects cannot have
NAME = str.maketrans("+~=", "./:")
PAGE = 500  # messages of one answer
_VERSION = 1  # the version of the schema that this version of the package knows
_OLDEST_SERVER = (2, 12, 1)  # 2.12.0 refuses batches with conditions
_LARGEST_ENTRY = 1024 * 1024
# Connections whose process has been forked: they are the parent's, and closing them would disturb it.
_abandoned: list[object] = []


class _Held(NamedTuple):
    """The record of a lease; `moment` is when this process saw that it had changed."""

    lease: Lease | None
    seconds: float
    sequence: int
    moment: float


class NatsLeases(Store):
    """The connection, leases and values of a `NatsStore`."""

    def __init__(self, url: str, timeout: float = 5.0, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: must be greater than 0, got {timeout}")
        self._place = parse_url(url)
        self._prefix = self._place.prefix
        self._state = f"{self._prefix}=state"
        self._timeout = timeout
        self._clock = clock
        # Leases with a write whose answer was lost: it may still be under way.
        self._unsure: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._opened = False
        self._link: Link | None = None
        self._opening, self._connecting = asyncio.Lock(), asyncio.Lock()
        self._single = True  # no replicas, so every answer is the newest
        self._held: dict[str, _Held] = {}

    @property
    def url(self) -> str:
        return self._place.url

    def __repr__(self) -> str:
        return f"NatsStore({self.url!r})"

    async def open(self) -> None:
        lock = self._opening
        async with lock:
            if self._opened:
                self._check_loop()
                return
            try:
                await self._inspect(await self._connect())
            except BaseException:
                link, self._link = self._link, None
                if link is not None:
                    await link.close()
                raise
            self._opened = lock is self._opening  # unless it was closed meanwhile
            self._loop = asyncio.get_running_loop()

    async def _inspect(self, link: Link) -> None:
        version = link.client.connected_server_version
        if (version.major, version.minor, version.patch) < _OLDEST_SERVER:
            raise StoreConfigError(f"{self.url}: the server must be NATS 2.12.1 or newer, got {version!r}")
        try:
            await link.call("INFO")
        except (NobodyAnswersError, ApiError):
            raise StoreConfigError(
                f"{self.url}: JetStream is not enabled; start nats-server with -js"
            ) from None
        try:
            if self.must_exist:
                await link.call(f"STREAM.INFO.{self._state}")
            info = await link.create(
                self._state,
                subjects=[f"{self._prefix}.{kind}.>" for kind in ("lease", "value", "producer")],
                max_msgs_per_subject=1,
                allow_msg_ttl=True,
                metadata=SCHEMA,
            )
        except ApiError as error:
            problem = f"{self.url}: there is no store; check ?prefix=" if error.code == NO_STREAM else error
            raise StoreConfigError(str(problem)) from None
        metadata = info["config"].get("metadata", {})
        if int(metadata.get("compatible_since", 0)) > _VERSION:
            raise StoreConfigError(
                f"{self.url}: the streams are of version {metadata.get('version')}, which this version of "
                "codomyrmex-streaming cannot use; install a newer one, or choose another ?prefix="
            )
        self._single = info["config"]["num_replicas"] == 1
        self.warnings = tuple(self._losses(link, info))

    def _losses(self, link: Link, info: Mapping[str, Any]) -> Iterator[str]:
        yield (
            "a power failure can lose what was acknowledged in the last minutes, unless the server's "
            "sync_interval is 'always' (its default is 2m; a client cannot see it)"
        )
        if info["config"]["storage"] == "memory":
            yield f"the stream {self._state} is in memory: it is lost when the server stops"
        if "name" in info.get("cluster", {}) and self._single:
            yield "this cluster keeps one copy of the data; ?replicas=3 keeps three"
        if link.client.max_payload < _LARGEST_ENTRY + HEADROOM:
            yield (
                f"entries of more than {link.client.max_payload - HEADROOM:,} bytes are refused; "
                f"raise the server's max_payload to {_LARGEST_ENTRY + HEADROOM:,}"
            )

    async def close(self) -> None:
        link = self._link
        self._forget()
        if link is not None:
            await link.close()

    def abandon(self) -> None:
        _abandoned.append(self._link)
        self._forget()

    async def _connected(self) -> Link:
        if not self._opened:
            await self.open()
        return await self._connect()

    async def _connect(self) -> Link:
        if self._link is not None and not self._link.ended:
            return self._link
        lock = self._connecting
        try:
            async with asyncio.timeout(2 * self._timeout), lock:
                if self._link is None or self._link.ended:
                    link = Link(self._place, self._timeout)
                    await link.connect()
                    if lock is not self._connecting:
                        await link.close()
                        raise StoreUnavailableError(f"{self.url}: the store was closed")
                    self._link = link
                return self._link
        except TimeoutError:
            raise StoreUnavailableError(f"{self.url}: no connection within {self._timeout:g} s") from None

    async def _call(self, request: str, **arguments: object) -> dict[str, Any]:
        return await (await self._connected()).call(request, **arguments)

    # Leases. A record of each one, which is changed only if its sequence is still the one that was seen.

    async def acquire(self, name: str, owner: str, seconds: float) -> Lease | None:
        async with self._limit():
            while True:
                held = await self._look(name)
                lease = held.lease
                if lease is not None and self._clock.monotonic() - held.moment > held.seconds:
                    lease = None
                if lease is not None and lease.owner != owner:
                    return None
                changed = await self._change(held, lease or Lease(name, owner, 0), seconds)
                if changed is not None:
                    return changed.lease

    async def renew(self, lease: Lease, seconds: float) -> None:
        await self._write(lease, seconds, {})

    async def release(self, lease: Lease) -> None:
        with suppress(LeaseLostError):
            await self._write(lease, 0, {})

    async def leases(self, prefix: str) -> list[Lease]:
        now = self._clock.monotonic()
        found = [
            self._observe(name, message) for name, message in (await self._scan("lease", prefix)).items()
        ]
        return sorted(held.lease for held in found if held.lease and now - held.moment <= held.seconds)

    async def _look(self, name: str) -> _Held:
        found = await (await self._connected()).get(self._state, last_by_subj=self._path("lease", name))
        return self._observe(name, found)

    def _observe(self, name: str, found: Found | None) -> _Held:
        if found is None:
            self._held.pop(name, None)
            return _Held(None, 0, 0, 0)
        held = self._held.get(name)
        if held is None or held.sequence != found.sequence:
            record = json.loads(found.payload)
            lease = Lease(name, record["owner"], record["token"] or found.sequence)
            held = self._held[name] = _Held(
                lease if record["seconds"] else None,
                record["seconds"],
                found.sequence,
                self._clock.monotonic(),
            )
        return held

    async def _write(self, lease: Lease, seconds: float | None, values: Mapping[str, bytes | None]) -> None:
        held = self._held.get(lease.name)
        async with self._limit():
            if held is None or held.lease != lease:
                held = await self._look(lease.name)
            while held.lease == lease:
                if await self._change(held, lease, held.seconds if seconds is None else seconds, values):
                    return
                held = await self._look(lease.name)
        raise LeaseLostError(f"{self.url}: the lease {lease.name!r} is not held any more")

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        """End what is tried again and again because the lease has changed meanwhile."""
        try:
            async with asyncio.timeout(2 * self._timeout):
                yield
        except TimeoutError:
            raise StoreUnavailableError(f"{self.url}: no answer within {2 * self._timeout:g} s") from None

    async def _change(
        self, held: _Held, lease: Lease, seconds: float, values: Mapping[str, bytes | None] | None = None
    ) -> _Held | None:
        """Write a lease and values in one step; return None if the lease has changed since it was seen.

        Writing the lease with every save puts the saves in order: one that arrives late is refused. A single
        value is saved without, which is much faster, as long as none can be under way.
        """
        name = lease.name
        subject = self._path("lease", name)
        record = json.dumps({"owner": lease.owner, "token": lease.token, "seconds": seconds}).encode()
        condition = {"Nats-Expected-Last-Subject-Sequence": str(held.sequence)}
        messages = [
            Message(
                self._path("value", key), value or b"", {} if value is not None else {"Removed": "1", **DAY}
            )
            for key, value in (values or {}).items()
        ]
        alone = len(messages) == 1 and name not in self._unsure
        if alone:
            condition["Nats-Expected-Last-Subject-Sequence-Subject"] = subject
            messages[0].headers.update(condition)
        else:
            lifetime = {"Nats-TTL": f"{max(86_400, math.ceil(2 * seconds))}s"}
            messages.insert(0, Message(subject, record, {**lifetime, **condition}))
        link = await self._connected()
        try:
            answer = await link.publish(messages)
        except ApiError as error:
            if error.code in CHANGED:
                return None
            raise
        except BaseException:
            self._unsure.add(name)
            raise
        if alone:
            return held
        self._unsure.discard(name)
        sequence = answer["seq"] - len(messages) + 1
        changed = lease._replace(token=lease.token or sequence)
        self._held[name] = _Held(changed if seconds else None, seconds, sequence, self._clock.monotonic())
        return self._held[name]

    def _path(self, kind: str, name: str) -> str:
        """Return the subject of a lease or a value, with a word for each part between slashes."""
        words = (word.translate(WORD) or "~" for word in name.split("/"))
        return ".".join((self._prefix, kind, *words))

    async def _scan(self, kind: str, prefix: str) -> dict[str, Found]:
        """Return the messages of leases or values, as they were at one moment."""
        parts = prefix.split("/")[:-1]
        subject = f"{self._path(kind, '/'.join(parts))}.>" if parts else f"{self._prefix}.{kind}.>"
        link = await self._connected()
        found: dict[str, Found] = {}
        sequence, torn = 1, False
        while True:
            if self._single:
                page = await link.page(self._state, PAGE, READ_BYTES, seq=sequence, next_by_subj=subject)
            else:  # other replicas than the leader may lag
                one = await link.get(self._state, seq=sequence, next_by_subj=subject)
                page = [] if one is None else [one]
            for message in page:
                words = message.subject.split(".")[2:]
                name = "/".join(word.translate(NAME) if word != "~" else "" for word in words)
                if name.startswith(prefix):
                    found[name] = message
            if page:
                last = page[-1]
                sequence = last.sequence + 1
                torn = "Nats-Batch-Id" in last.headers and "Nats-Batch-Commit" not in last.headers
            elif torn:  # a batch was just being stored; this answer comes after it
                await link.call(f"STREAM.INFO.{self._state}")
                torn = False
            else:
                return found

    # Values

    async def load(self, prefix: str) -> Mapping[str, bytes]:
        return {
            name: found.payload
            for name, found in (await self._scan("value", prefix)).items()
            if "Removed" not in found.headers
        }

    async def save(self, lease: Lease, values: Mapping[str, bytes | None]) -> None:
        await self._write(lease, None, values)
