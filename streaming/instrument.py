"""Lets tracing be put around publishing and handling, at no cost for streams where it is not.

A stream is instrumented by giving the one object other methods; its class, and so every other stream,
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from codomyrmex.streaming.subscriptions import is_plain_function

if TYPE_CHECKING:
    from codomyrmex.streaming.dispatch import LocalStream
    from codomyrmex.streaming.events import Event
    from codomyrmex.streaming.subscriptions import Handler


class Instrumentation(Protocol):
    """What is put around."""

    def publishing(self) -> AbstractContextManager[None]:
        """Give what is entered before an event is published, and left when its handlers are done."""

    def handling(self, event: Event) -> AbstractContextManager[None]:
        """Give what is entered before a handler is called, and left when it is done."""


def instrument(stream: LocalStream, around: Instrumentation) -> Callable[[], None]:
    """Put something around each publish and each call of a handler of a stream.

    Processors whose sink the stream is have to be started after it.

    Returns:
        What takes it off again.
    """
    publish, publish_nowait = stream.publish, stream.publish_nowait

    async def publish_within(*args: Any, **named: Any) -> None:
        with around.publishing():
            await publish(*args, **named)

    def publish_nowait_within(*args: Any, **named: Any) -> None:
        with around.publishing():
            publish_nowait(*args, **named)

    replaced = {
        "publish": publish_within,
        "publish_nowait": publish_nowait_within,
        "_starter": lambda: publish_within,
    }
    vars(stream).update(replaced)
    stream._wrap_handlers(lambda handler: _within(around, handler))

    def undo() -> None:
        for name in replaced:
            vars(stream).pop(name, None)
        stream._wrap_handlers(None)

    return undo


def _within(around: Instrumentation, handler: Handler) -> Handler:
    if not is_plain_function(handler):

        async def handle_async(event: Event) -> Any:
            with around.handling(event):
                return await handler(event)

        return handle_async

    def handle(event: Event) -> Any:
        with around.handling(event):
            return handler(event)

    return handle
