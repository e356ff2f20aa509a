"""Lets tracing be put around publishing and handling, at no cost for streams where it is not.

A stream is instrumented by giving the one object other methods; its class, and so every other stream,
stays as it is. Several instrumentations lie around each other, the first one outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol

from codomyrmex.streaming.events import Event
from codomyrmex.streaming.subscriptions import close_awaitable

if TYPE_CHECKING:
    from codomyrmex.streaming.dispatch import LocalStream
    from codomyrmex.streaming.subscriptions import Handler


class Handling(Protocol):
    """What is put around one call of a handler."""

    def current(self) -> AbstractContextManager[object]:
        """Give what is entered around the call, and for an async handler around what it awaits."""

    def end(self, error: BaseException | None) -> None:
        """Note that the handler is done, and what it raised."""


class Instrumentation(Protocol):
    """What is put around."""

    def publishing(self, event: Event | None, topic: str | None) -> AbstractContextManager[None]:
        """Give what is entered before an event is published, and left when its handlers are done."""

    def handling(self, event: Event) -> Handling:
        """Begin a call of a handler."""


def instrument(stream: LocalStream, around: Instrumentation) -> Callable[[], None]:
    """Put something around each publish and each call of a handler of a stream.

    Processors whose sink the stream is have to be started after it.

    Returns:
        What takes it off again.
    """
    stream._instruments = (*stream._instruments, around)
    if "publish" not in vars(stream):
        _put_around(stream)
        stream._wrap_handlers()

    def take_off() -> None:
        stream._instruments = tuple(one for one in stream._instruments if one is not around)
        if not stream._instruments:
            for name in ("publish", "publish_nowait", "_starter"):
                vars(stream).pop(name, None)

    return take_off


def _put_around(stream: LocalStream) -> None:
    publish, publish_nowait = stream.publish, stream.publish_nowait

    async def publish_within(*args: Any, **named: Any) -> None:
        with _publishing(stream, args, named):
            await publish(*args, **named)

    def publish_nowait_within(*args: Any, **named: Any) -> None:
        with _publishing(stream, args, named):
            publish_nowait(*args, **named)

    vars(stream).update(
        publish=publish_within, publish_nowait=publish_nowait_within, _starter=lambda: publish_within
    )


def _publishing(stream: LocalStream, args: tuple[Any, ...], named: dict[str, Any]) -> ExitStack:
    """Enter all instrumentations; which argument is what depends on the stream."""
    given = (*args, *named.values())
    event = next((value for value in given if isinstance(value, Event)), None)
    topic = next((value for value in given if isinstance(value, str)), None)
    stack = ExitStack()
    for around in stream._instruments:
        stack.enter_context(around.publishing(event, topic))
    return stack


def within(stream: LocalStream, handler: Handler) -> Handler:
    """Give a handler that runs within what is put around its stream at that time."""

    def handle(event: Event) -> Any:
        call: Callable[[Event], Any] = handler
        for around in reversed(stream._instruments):
            call = _Call(around, call)
        return call(event)

    return handle


class _Call:
    """A call of a handler within one instrumentation."""

    def __init__(self, around: Instrumentation, handler: Callable[[Event], Any]) -> None:
        self._around = around
        self._handler = handler

    def __call__(self, event: Event) -> Any:
        handling = self._around.handling(event)
        try:
            with handling.current():
                result = self._handler(event)
        except BaseException as error:
            handling.end(error)
            raise
        if result is not None and isawaitable(result):
            return _Rest(handling, result)
        handling.end(None)
        return result


class _Rest:
    """What an async handler still has to do, within its instrumentation: to be awaited, or else closed."""

    def __init__(self, handling: Handling, awaitable: Awaitable[Any]) -> None:
        self._handling = handling
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, None, Any]:
        return self._finish().__await__()

    async def _finish(self) -> Any:
        try:
            with self._handling.current():
                result = await self._awaitable
        except BaseException as error:
            self._handling.end(error)
            raise
        self._handling.end(None)
        return result

    def close(self) -> None:
        """Give it up."""
        close_awaitable(self._awaitable)
        self._handling.end(None)
