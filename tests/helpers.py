"""What tests of code that runs on an event loop have in common."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

DEADLINE = 5.0


def in_time(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Fail instead of hanging."""

    @functools.wraps(test)
    async def bounded(*args: Any, **named: Any) -> None:
        async with asyncio.timeout(DEADLINE):
            await test(*args, **named)

    return bounded


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(30):
        await asyncio.sleep(0)
