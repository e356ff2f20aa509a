"""`Served`: an application over HTTP, from `start` to `stop`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from codomyrmex.integrations.pipelines.file import Address
from codomyrmex.integrations.web.serve import serving


class Served:
    """Serves an application.

    Args:
        app: an ASGI application; what it has to say at its end, it says in `aclose`.
        address: where.
        token: asked for at each request; None only on this machine.
    """

    def __init__(self, app: Any, address: Address, token: str | None) -> None:
        self._app = app
        self._address = address
        self._token = token
        self._stack = AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is in use, or is none of this machine.
        """
        served = serving(self._app, self._address.host, self._address.port, self._token)
        try:
            self.url = await self._stack.enter_async_context(served)
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (while")[0]
            raise OSError(f"{self._address} cannot be listened on: {why}") from None

    async def stop(self) -> None:
        """Say goodbye to who is connected, and end."""
        await self._app.aclose()
        await self._stack.aclose()
