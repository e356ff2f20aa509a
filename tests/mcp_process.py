"""The command `codomyrmex-streaming mcp` as a process, and a client of the SDK that is connected to it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from helpers import DEADLINE
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

PATIENCE = 3 * DEADLINE
COMMAND = [sys.executable, "-m", "codomyrmex.integrations.cli", "mcp"]


class Assistant:
    """A client, on a thread of its own, for tests that are not async."""

    def __init__(self, *options: str, **environment: str) -> None:
        variables = {name: value for name, value in os.environ.items() if name != "CODOMYRMEX_TOKEN"}
        self._server = StdioServerParameters(
            command=COMMAND[0], args=[*COMMAND[1:], *options], env={**variables, **environment}
        )
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Client]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._loop, self._ended, self.client = self._ready.result(PATIENCE)

    async def _run(self) -> None:
        ended = asyncio.Event()
        try:
            async with Client(self._server) as client:
                self._ready.set_result((asyncio.get_running_loop(), ended, client))
                await ended.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def call(self, tool: str, **arguments: Any) -> CallToolResult:
        return self.run(self.client.call_tool(tool, arguments))

    def result(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured result of a call that succeeds."""
        answer = self.call(tool, **arguments)
        assert not answer.is_error, answer.content
        assert answer.structured_content is not None
        return answer.structured_content

    def error(self, tool: str, **arguments: Any) -> str:
        """Return the text of a call that fails."""
        answer = self.call(tool, **arguments)
        assert answer.is_error, answer
        return "".join(getattr(part, "text", "") for part in answer.content)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextmanager
def assisting(*options: str, **environment: str) -> Iterator[Assistant]:
    assistant = Assistant(*options, **environment)
    try:
        yield assistant
    finally:
        assistant.end()
