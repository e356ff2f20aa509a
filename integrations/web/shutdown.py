"""Learning that the process is asked to end, early enough to say goodbye.

A server that gets SIGTERM waits for its connections to end, and an event stream does not end by itself.
What the server has installed for the signal is called after it, so that nothing of it is changed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_watching: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], object]]] = {}
_before: dict[int, Any] = {}


def watch(key: object, callback: Callable[[], object]) -> bool:
    """Have a function called on the running loop when the process is asked to end.

    Args:
        key: for `unwatch`.
        callback: what to call.

    Returns:
        False where it cannot be known: not in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    _watching[key] = (asyncio.get_running_loop(), callback)
    for number in _SIGNALS:
        now = signal.getsignal(number)
        if now is not _asked:
            _before[number] = now
            signal.signal(number, _asked)
    return True


def unwatch(key: object) -> None:
    """Call it no more; the last one leaves everything as it was."""
    _watching.pop(key, None)
    if _watching or threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_before.items()):
        if signal.getsignal(number) is _asked and handler is not None:
            signal.signal(number, handler)
        del _before[number]


def _asked(number: int, frame: FrameType | None) -> None:
    for loop, callback in list(_watching.values()):
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback)
    before = _before.get(number)
    if callable(before):
        before(number, frame)
    elif before is signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
