"""One at a time and in order, without ever waiting for oneself."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar, Token


class Turn:
    """Being inside a turnstile, once. What is awaited meanwhile has it in its context, tasks included."""

    __slots__ = ("_token", "outer", "running", "waits_for")

    def __init__(self) -> None:
        self.running = True
        self.waits_for: list[Turnstile] = []
        self.outer = _inside.get()
        while self.outer is not None and not self.outer.running:  # keeps no chain of ended ones alive
            self.outer = self.outer.outer
        self._token: Token[Turn | None] = _inside.set(self)

    def end(self) -> None:
        """End it; tasks that were started meanwhile are no longer inside."""
        self.running = False
        _inside.reset(self._token)


# The turn that the code in this context is part of, the innermost one.
_inside: ContextVar[Turn | None] = ContextVar("codomyrmex.streaming.turns", default=None)


class Turnstile:
    """Lets one through at a time, in the order of arrival. For one event loop.

    Unlike an `asyncio.Lock` it knows when to wait would be to wait for oneself: `leads_back`.

    Attributes:
        busy: someone is inside. Who needs no await may set and unset it.
    """

    __slots__ = ("_turn", "_waiting", "busy")

    def __init__(self) -> None:
        self.busy = False
        self._turn: Turn | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def is_inside(self) -> bool:
        """Tell whether the code that asks is part of what is inside now."""
        return self._turn is not None and self._turn in _held()

    def leads_back(self) -> bool:
        """Tell whether to wait here would be to wait for oneself.

        That is so for what is part of the one inside, and where the one inside waits, perhaps over
        others, for a turnstile that the code that asks is inside of.
        """
        if not self.busy:
            return False
        held = _held()
        seen: set[int] = set()
        wanted = [self]
        while wanted:
            turn = wanted.pop()._turn
            if turn is None or id(turn) in seen:
                continue
            if turn in held:
                return True
            seen.add(id(turn))
            wanted += turn.waits_for
        return False

    def line_up(self) -> asyncio.Future[None]:
        """Take a place in line now, for an `enter` that comes later."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.busy:
            self._waiting.append(place)
        else:
            self.busy = True
            place.set_result(None)
        return place

    async def enter(self, place: asyncio.Future[None] | None = None) -> None:
        """Wait for one's turn; `leave` ends it."""
        if place is None and self.busy:
            place = self.line_up()
        if place is not None and not place.done():
            await self._wait(place)
        self.busy = True
        self._turn = Turn()

    def leave(self) -> None:
        """Let the next one in."""
        if self._turn is not None:
            self._turn.end()
            self._turn = None
        self._release()

    def _release(self) -> None:
        self.busy = False
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                self.busy = True  # kept for the one who is woken, so that nobody overtakes it
                place.set_result(None)
                return

    async def _wait(self, place: asyncio.Future[None]) -> None:
        held = _held()
        for turn in held:
            turn.waits_for.append(self)
        try:
            await place
        except BaseException:
            if place.done() and not place.cancelled():
                self._release()
            raise
        finally:
            for turn in held:
                turn.waits_for.remove(self)


def _held() -> list[Turn]:
    """Give the turns that the code in this context is part of."""
    held = []
    turn = _inside.get()
    while turn is not None:
        if turn.running:
            held.append(turn)
        turn = turn.outer
    return held
