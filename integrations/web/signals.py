"""Early notice of SIGTERM and SIGINT.

A server waits for its connections to end before it shuts down, but an event stream does not end by itself.
Handlers that the server has installed are called afterwards and restored at the end.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from codomyrmex.integrations.delivery.diagnostics import Diagnostics

_log = Diagnostics(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_watchers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], object]]] = {}
_previous: dict[int, Any] = {}


def watch(key: object, callback: Callable[[], object]) -> None:
    """Call a function on the running loop when the process receives SIGTERM or SIGINT.

    Signal handlers can be installed in the main thread only; elsewhere a warning is logged. The key
    identifies the callback for `unwatch`. If the server is ending already, the function is called soon.
    """
    if threading.current_thread() is not threading.main_thread():
        _log.warning(
            "thread",
            "signals cannot be handled outside the main thread, so a server with connected clients does not "
            "end by itself; await aclose() before it stops, and pass signals=False",
        )
        return
    loop = asyncio.get_running_loop()
    _watchers[key] = (loop, callback)
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if handler is not _handle:
            _previous[number] = handler
            signal.signal(number, _handle)
    if any(map(_is_ending, _previous.values())):
        loop.call_soon(callback)


def unwatch(key: object) -> None:
    """Remove a callback; after the last one the previous signal handlers are restored."""
    _watchers.pop(key, None)
    if _watchers or threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_previous.items()):
        if signal.getsignal(number) is _handle and handler is not None:
            signal.signal(number, handler)
        del _previous[number]


def _is_ending(handler: object) -> bool:
    """Return whether a handler is that of a uvicorn which got a signal but still accepts connections."""
    return getattr(getattr(handler, "__self__", None), "should_exit", None) is True


def _handle(number: int, frame: FrameType | None) -> None:
    for loop, callback in list(_watchers.values()):
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback)
    previous = _previous.get(number)
    if callable(previous):
        previous(number, frame)
    elif previous is signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
