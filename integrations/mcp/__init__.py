"""Tools for assistants over the Model Context Protocol (MCP); needs the extra `mcp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.mcp.app import McpApp, mcp_app
    from codomyrmex.integrations.mcp.backend import Backend, BackendError
    from codomyrmex.integrations.mcp.local import LocalBackend
    from codomyrmex.integrations.mcp.remote import RemoteBackend
    from codomyrmex.integrations.mcp.server import mcp_server

_MODULES = {
    "Backend": "backend",
    "BackendError": "backend",
    "LocalBackend": "local",
    "McpApp": "app",
    "RemoteBackend": "remote",
    "mcp_app": "app",
    "mcp_server": "server",
}

__all__ = [
    "Backend",
    "BackendError",
    "LocalBackend",
    "McpApp",
    "RemoteBackend",
    "mcp_app",
    "mcp_server",
]

__getattr__ = lazy_exports(__name__, _MODULES)
