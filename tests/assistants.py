"""An assistant's side of the tools: calls with the client of the SDK."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from codomyrmex.integrations.mcp import Backend, LocalBackend, mcp_server
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

LEGACY, MODERN = "legacy", "auto"  # with a handshake, and without, as since 2026-07-28

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the certificates takes long


class ToolFailed(Exception):  # noqa: N818 - what the SDK calls an error is a result
    """A tool returned an error; the message is its text."""


class Assistant:
    """Calls tools."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured result of a tool, or raise a ToolFailed."""
        result = await self.client.call_tool(tool, arguments)
        if result.is_error:
            raise ToolFailed(result.content[0].text)
        return result.structured_content

    async def tools(self) -> dict[str, Any]:
        return {tool.name: tool for tool in (await self.client.list_tools()).tools}


@asynccontextmanager
async def assistant(backend: Backend | None = None, **options: Any) -> AsyncIterator[Assistant]:
    """Yield an assistant that is connected to a server in this process."""
    backend = LocalBackend() if backend is None else backend
    async with Client(mcp_server(backend, **options)) as client:
        yield Assistant(client)
    await backend.aclose()


@asynccontextmanager
async def over_http(
    app: Any = None,
    url: str = "http://localhost/",
    token: str | None = None,
    mode: str = MODERN,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Assistant]:
    """Yield an assistant that is connected to an ASGI application, or to a server."""
    sent = {**({} if token is None else {"authorization": f"Bearer {token}"}), **(headers or {})}
    transport = None if app is None else httpx2.ASGITransport(app)
    async with (
        httpx2.AsyncClient(transport=transport, headers=sent, timeout=60, verify=NO_TLS) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield Assistant(client)
