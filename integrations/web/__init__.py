"""Streams over HTTP, as ASGI applications that need no framework and mount in any."""

from __future__ import annotations

# Imported at once: what is imported late would give the module `event_stream` for the function of its name.
from codomyrmex.integrations.web.access import require_token
from codomyrmex.integrations.web.dashboard import DashboardApp, dashboard
from codomyrmex.integrations.web.event_stream import EventStreamApp, event_stream
from codomyrmex.integrations.web.ingest import EventIngestApp, event_ingest
from codomyrmex.integrations.web.serve import PublicAddressError, check_address, serve, serving

__all__ = [
    "DashboardApp",
    "EventIngestApp",
    "EventStreamApp",
    "PublicAddressError",
    "check_address",
    "dashboard",
    "event_ingest",
    "event_stream",
    "require_token",
    "serve",
    "serving",
]
