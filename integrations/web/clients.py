"""The clients of an event stream, the frames that they are sent, and how their connections are cut."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from codomyrmex.streaming import Subscription
from codomyrmex.streaming.encoding import to_json
from codomyrmex.streaming.sse_format import wire_id
from starlette.types import Receive

HEARTBEAT = b": hb\n"  # no blank line: some clients would dispatch an empty event

_MAX_STEPS = 100


@dataclass(eq=False, slots=True)
class Client:
    """A connected client."""

    subscription: Subscription
    task: asyncio.Task[Any]
    abort: Callable[[], None] | None
    requested_id: str
    last_id: str
    dropped: bool = False
    cancelled: bool = False
    sending_since: float = math.inf  # monotonic time, while a write is in progress

    def cancel(self) -> None:
        """Cancel the task of the client."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()


async def end_when_disconnected(receive: Receive, client: Client) -> None:
    """Cancel the subscription of a client when it disconnects, which ends the loop that reads it."""
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
    client.subscription.cancel()
    if client.dropped:  # its write may never end
        client.cancel()


def find_abort(receive: Any, send: Any) -> Callable[[], None] | None:
    """Return a function that aborts the connection if the server makes one available, as uvicorn does.

    ASGI cannot abort, and a regular end waits until everything is sent, which never happens if the client
    does not read. Middleware such as Starlette's `BaseHTTPMiddleware` wraps the functions of the server, so
    the functions that they call, by the names that ASGI gives them, are examined too.
    """
    candidates = deque([receive, send])
    for _ in range(_MAX_STEPS):
        if not candidates:
            break
        function = candidates.popleft()
        owner = getattr(function, "__self__", None)
        abort = getattr(getattr(owner, "transport", None), "abort", None)
        if callable(abort):
            return abort  # type: ignore[no-any-return]
        candidates.extend(_wrapped(function, owner))
    return None


def _wrapped(function: Any, owner: Any) -> Iterator[Any]:
    """Yield the functions that a `receive` or `send` calls."""
    if isinstance(function, partial):
        yield function.func
        named = dict(function.keywords)
    else:
        named = dict(getattr(owner, "__dict__", {}))
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
        try:
            named[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name, value in named.items():
        if callable(value) and ("receive" in name or "send" in name):
            yield value


def frame_bytes(event_id: str, event_type: str, data: Any, retry: str = "") -> bytes:
    """Return one frame of an event stream."""
    last_id = wire_id(event_id)
    id_line = f"id: {last_id}\n" if last_id else ""  # an empty id would reset the client's last event id
    return f"{id_line}event: {event_type}\n{retry}data: {to_json(data)}\n\n".encode()
