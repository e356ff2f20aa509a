"""What tests have in common."""

from __future__ import annotations

import asyncio
import functools
import re
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


def shown(value: object) -> str:
    """Name a case of a test: the same in each process, so without the address of an object."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
