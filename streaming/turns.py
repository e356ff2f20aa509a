"""One at a time and in order, without ever waiting for oneself."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar, Token

# The turnstile that the code in this context is inside of, the innermost one. What it awaits inherits the
# mark, tasks that it starts included.
_inside: ContextVar[Turnstile | None] = ContextVar("codomyrmex.streaming.turns", default=None)


class Turnstile:
    """Lets one through at a time, in the order of arrival. For one event loop.

    Unlike an `asyncio.Lock` it knows when to wait would be to wait for oneself: `leads_back`.

    Attributes:
        busy: someone is inside. Who needs no await may set and unset it.
    """

    __slots__ = ("_outer", "_waiting", "_waits_for", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._outer: Turnstile | None = None  # what the one inside of this is inside of as well
        self._waits_for: Turnstile | None = None  # what the one inside of this waits for

    def is_inside(self) -> bool:
        """Tell whether the code that asks runs inside, or was started by what does."""
        return self in _held()

    def leads_back(self) -> bool:
        """Tell whether to wait here would be to wait for oneself.

        That is so for who is inside already, and where the one inside waits, perhaps over others, for a
        turnstile that the code that asks is inside of.
        """
        if not self.busy:
            return False
        held = _held()
        wanted: Turnstile | None = self
        while wanted is not None:
            if wanted in held:
                return True
            wanted = wanted._waits_for
        return False

    async def enter(self) -> Token[Turnstile | None]:
        """Wait for one's turn; give what `leave` takes."""
        if self.busy:
            await self._wait()
        self.busy = True
        self._outer = _inside.get()
        return _inside.set(self)

    def leave(self, token: Token[Turnstile | None]) -> None:
        """Let the next one in."""
        _inside.reset(token)
        self._outer = None
        self._release()

    def _release(self) -> None:
        self.busy = False
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                self.busy = True  # kept for the one who is woken, so that nobody overtakes it
                place.set_result(None)
                return

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        held = _inside.get()
        if held is not None:
            held._waits_for = self
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self._release()
            raise
        finally:
            if held is not None:
                held._waits_for = None


def _held() -> list[Turnstile]:
    held = []
    turnstile = _inside.get()
    while turnstile is not None:
        held.append(turnstile)
        turnstile = turnstile._outer
    return held
