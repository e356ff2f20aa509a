"""Waiting with a limit that is counted by a clock."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from codomyrmex.streaming import Clock

GRACE = 0.2  # seconds of real time beyond a deadline, for what should take none


async def done_within(waited_for: asyncio.Future[Any], seconds: float | None, clock: Clock) -> bool:
    """Wait for something, at most so long, and tell whether it is done. It is not cancelled.

    Args:
        waited_for: a task or a future.
        seconds: the limit; None is none.
        clock: what counts them.
    """
    if seconds is not None and seconds <= 0:
        await asyncio.sleep(0)
        return waited_for.done()
    over = asyncio.get_running_loop().create_future()

    def stop_waiting(_: object = None) -> None:
        resolve(over)

    waited_for.add_done_callback(stop_waiting)
    timer = None if seconds is None else clock.call_later(seconds, stop_waiting)
    try:
        await over
    finally:
        if timer is not None:
            timer.cancel()
        waited_for.remove_done_callback(stop_waiting)
    return waited_for.done()


def resolve(future: asyncio.Future[None]) -> None:
    """Let those go on who wait for a future, if they do not yet."""
    with suppress(RuntimeError):  # its loop is closed: nobody waits any more
        if not future.done():
            future.set_result(None)
