"""One connection to NATS for the calls of a store: requests, batches and the errors of JetStream."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import ssl
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.durable.store import StoreConfigError, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.stores.nats_url import Place

try:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.errors import Error as NatsError
except ImportError as error:
    raise MissingExtraError("NatsStore", "nats-py", "nats") from error

HEADROOM = 1024  # bytes of headers and subjects at most, which count for the server's max_payload
NO_STREAM = 10059
CHANGED = frozenset({10071, 10164})  # the last sequence of the subject is another one
_STREAM_EXISTS = 10058
_NO_MESSAGE = 10037
_CROWDED = frozenset({10176, 10210})  # too many batches under way: nothing of this one was stored
_TOO_LARGE = frozenset({10054, 10199})
_FULL = frozenset({10002, 10023, 10047})
_NOBODY = "503"  # also the code of errors that pass
_UNSENT = 64 * 1024 * 1024  # bytes that wait for a server that does not read


class Message(NamedTuple):
    """A message to publish."""

    subject: str
    payload: bytes
    headers: dict[str, str]


class Found(NamedTuple):
    """A stored message."""

    subject: str
    sequence: int
    time: float
    headers: Mapping[str, str]
    payload: bytes


class ApiError(StoreError):
    """JetStream refused a request; `code` is its own error code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NobodyAnswersError(StoreUnavailableError):
    """There is no such stream, or JetStream is not running."""


class Tail:
    """What is known of the end of a log: the last position, and when to look again."""

    def __init__(self) -> None:
        self.last = 0
        self.poll_at = 0.0
        self.news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def move(self, last: int) -> None:
        if last > self.last:
            self.news.set_result(None)
            self.news = asyncio.get_running_loop().create_future()
        self.last = last

    async def on_message(self, message: Msg) -> None:
        """Move to the position of a message that was stored."""
        self.move(int((message.headers or {})["Nats-Sequence"]))


class _Tls(ssl.SSLContext):
    """A context that knows whether it was used: the server decides whether it offers TLS."""

    used = False

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        self.used = True
        return super().wrap_bio(*args, **options)

    def require(self, url: str) -> None:
        if not self.used:
            raise StoreConfigError(f"{url}: the server does not offer TLS; nats:// connects without")


class Link:
    """A connection. It ends when it is lost; the store then makes another one.

    Attributes:
        client: the client of nats-py.
        lost: done when the connection has ended.
        tails: the ends of logs that are followed, by subject.
    """

    def __init__(self, place: Place, timeout: float) -> None:
        self._place, self._url, self._timeout = place, place.url, timeout
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._calls = 0
        self._awaited: dict[str, tuple[asyncio.Future[list[Msg]], list[Msg], bool]] = {}
        self._problem = ""
        self.client = Client()
        self.tails: dict[str, Tail] = {}
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> bool:
        """Whether the connection is lost, or about to be."""
        return self.lost.done() or self.client.is_closed

    async def connect(self) -> None:
        """Connect within the timeout.

        Raises:
            StoreConfigError: the server does not accept the credentials, or offers no TLS.
            StoreUnavailableError: it cannot be reached.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._connect()
                await self.subscribe(f"{self._inbox}.*", self._on_answer)
        except BaseException as error:
            await self.close()
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            problem = f"{self._problem or describe(error)} {describe(error)}"
            if "uthorization" in problem or "CERTIFICATE_VERIFY_FAILED" in problem:
                raise StoreConfigError(
                    f"{self._url}: the server refuses this user, or its certificate is not trusted: "
                    f"{self._problem or describe(error)}"
                ) from None
            raise StoreUnavailableError(
                f"{self._url}: cannot connect: {self._problem or describe(error)}"
            ) from None

    async def _connect(self) -> None:
        options: dict[str, Any] = dict(self._place.credentials)
        tls: _Tls | None = None
        if self._place.tls:
            tls = _Tls(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_default_certs()
            options = {name: _after_tls(tls, self._url, value) for name, value in options.items()}
        await self.client.connect(
            self._place.servers,
            error_cb=self._on_error,
            closed_cb=self._on_closed,
            name="codomyrmex-streaming",
            allow_reconnect=False,
            connect_timeout=self._timeout,  # type: ignore[arg-type]  # any number of seconds
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            ping_interval=self._timeout,  # type: ignore[arg-type]  # as above
            max_outstanding_pings=1,
            pending_size=0,  # nothing is kept for later while there is no connection
            tls=tls,
            **options,
        )
        if tls is not None:
            tls.require(self._url)

    async def close(self) -> None:
        """Close the connection; what is still awaited on it fails."""
        with suppress(Exception):
            async with asyncio.timeout(1):
                await self.client.close()
        await self._on_closed()

    async def _on_error(self, error: Exception) -> None:
        self._problem = describe(error)

    async def _on_closed(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        for future, _, _ in self._awaited.values():
            if not future.done():
                future.set_exception(StoreUnavailableError(f"{self._url}: the connection was lost"))

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> None:
        """Subscribe to a subject, without a limit to what is waiting for the callback."""
        await self.client.subscribe(subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0)

    async def follow(self, subject: str) -> Tail:
        """Return the end of a log, which moves when a message with this subject comes."""
        tail = self.tails.get(subject)
        if tail is None:
            tail = self.tails[subject] = Tail()
            await self.subscribe(subject, tail.on_message)
        return tail

    async def _on_answer(self, message: Msg) -> None:
        future, messages, many = self._awaited.get(message.subject, (None, [], False))
        if future is None or future.done():
            return
        messages.append(message)
        if not many or (message.headers and "Status" in message.headers):
            future.set_result(messages)

    async def _ask(self, messages: Sequence[Message], *, many: bool = False) -> list[Msg]:
        """Publish messages and return the answer to the last one; with `many` to one with a status.

        The driver gets all of them without a pause, so that a cancelled call leaves no part of them.
        """
        client = self.client
        if client.is_closed or client.pending_data_size > _UNSENT:
            raise StoreUnavailableError(f"{self._url}: the connection is lost or stalled")
        self._calls += 1
        inbox = f"{self._inbox}.{self._calls}"
        future: asyncio.Future[list[Msg]] = asyncio.get_running_loop().create_future()
        self._awaited[inbox] = future, [], many
        *earlier, last = messages
        try:
            for subject, payload, headers in earlier:
                await client.publish(subject, payload, headers=headers)
            await client.publish(last.subject, last.payload, inbox, last.headers or None)
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            problem, self._problem = self._problem, ""
            kind = StoreConfigError if "permissions" in problem.lower() else StoreUnavailableError
            raise kind(f"{self._url}: no answer within {self._timeout:g} s {problem}".rstrip()) from None
        except (NatsError, OSError) as error:
            raise StoreUnavailableError(f"{self._url}: {describe(error)}") from None
        finally:
            del self._awaited[inbox]
            future.cancel()

    async def publish(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Publish messages in one step, and return the server's acknowledgement.

        Raises:
            ApiError: JetStream refused them.
            StoreError: one of them is too large for the server.
        """
        size, limit = max(len(message.payload) for message in messages), self.client.max_payload
        if size > limit - HEADROOM:
            raise StoreError(
                f"{self._url}: {size:,} bytes are more than the server accepts with its max_payload of "
                f"{limit:,}; raise it to {size + HEADROOM:,}"
            )
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                return self._decode((await self._ask(_in_one_step(messages)))[0])
            except ApiError as error:
                if error.code not in _CROWDED:
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise StoreUnavailableError(str(error)) from None
            await asyncio.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - not a secret

    async def tell(self, message: Message) -> None:
        """Publish a message without waiting for an answer."""
        with suppress(NatsError, OSError):
            await self.client.publish(message.subject, message.payload, headers=message.headers)

    async def call(self, request: str, **arguments: object) -> dict[str, Any]:
        """Call the API of JetStream and return its answer.

        Raises:
            ApiError: JetStream refused the request.
        """
        payload = json.dumps(arguments).encode() if arguments else b""
        return self._decode((await self._ask([Message(f"$JS.API.{request}", payload, {})]))[0])

    def _decode(self, message: Msg) -> dict[str, Any]:
        if message.headers and message.headers.get("Status") == _NOBODY:
            raise NobodyAnswersError(f"{self._url}: JetStream does not answer; it is starting or not enabled")
        answer: dict[str, Any] = json.loads(message.data)
        if error := answer.get("error"):
            code, text = error.get("err_code", 0), f"{self._url}: {error.get('description')}"
            if code in _FULL or str(error.get("code")) == _NOBODY:
                raise StoreUnavailableError(text)
            raise ApiError(f"{text}; raise the server's limit" if code in _TOO_LARGE else text, code)
        return answer

    async def create(self, stream: str, **config: object) -> dict[str, Any]:
        """Return what a stream is and holds, and create it if there is none."""
        for attempt in range(2):
            try:
                return await self.call(f"STREAM.INFO.{stream}")
            except ApiError as error:
                if error.code != NO_STREAM or attempt:
                    raise
            try:
                return await self.call(
                    f"STREAM.CREATE.{stream}",
                    name=stream,
                    retention="limits",
                    storage="file",
                    num_replicas=self._place.replicas,
                    allow_direct=True,
                    allow_atomic=True,
                    **config,
                )
            except ApiError as error:
                if error.code != _STREAM_EXISTS:  # another process was faster
                    raise
        raise AssertionError

    async def get(self, stream: str, **which: object) -> Found | None:
        """Return a message, from the leader of the stream, so that it is the newest."""
        try:
            message = (await self.call(f"STREAM.MSG.GET.{stream}", **which))["message"]
        except ApiError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        lines = b64decode(message.get("hdrs", "")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        payload = b64decode(message.get("data", ""))
        return Found(message["subject"], message["seq"], seconds_of(message["time"]), headers, payload)

    async def page(self, stream: str, limit: int, max_bytes: int, **which: object) -> list[Found]:
        """Return messages in order; some more than `max_bytes`, and none if there is no such stream."""
        arguments = {"batch": limit, "max_bytes": max_bytes + 512 * limit, **which}
        request = Message(f"$JS.API.DIRECT.GET.{stream}", json.dumps(arguments).encode(), {})
        *found, end = await self._ask([request], many=True)
        status = (end.headers or {}).get("Status")
        if status == _NOBODY:
            try:
                await self.call(f"STREAM.INFO.{stream}")
            except ApiError as error:
                if error.code == NO_STREAM:
                    return []
                raise
            raise StoreUnavailableError(f"{self._url}: the stream {stream} does not answer")
        if status not in {"204", "404"}:
            raise StoreError(f"{self._url}: the stream {stream} cannot be read, status {status}")
        return [_found(message.headers or {}, message.data) for message in found]


def _after_tls(tls: _Tls, url: str, value: str) -> Callable[[], str]:
    def credential() -> str:
        tls.require(url)
        return value

    return credential


def _in_one_step(messages: Sequence[Message]) -> Sequence[Message]:
    if len(messages) == 1:
        return messages
    batch = secrets.token_hex(6)  # of each attempt: an earlier one may still be under way
    numbered = [
        Message(
            subject,
            payload,
            {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number), **headers},
        )
        for number, (subject, payload, headers) in enumerate(messages, 1)
    ]
    numbered[-1].headers["Nats-Batch-Commit"] = "1"
    return numbered


def _found(headers: Mapping[str, str], payload: bytes) -> Found:
    sequence, time = int(headers["Nats-Sequence"]), seconds_of(headers["Nats-Time-Stamp"])
    return Found(headers["Nats-Subject"], sequence, time, headers, payload)


def seconds_of(time: str) -> float:
    """Return seconds since 1970 for a time of the server."""
    return datetime.fromisoformat(time).timestamp()
