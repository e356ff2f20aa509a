"""Streams over HTTP: ASGI applications that run on their own or mounted in another application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import MissingExtraError, lazy_exports

try:
    import starlette  # noqa: F401 - all modules here need it, and this one is imported first
except ImportError as error:
    raise MissingExtraError("codomyrmex.integrations.web", "starlette", "web") from error

# Imported at once: a lazy import would bind `event_stream` to the module instead of the function.
from codomyrmex.integrations.web.dashboard import DashboardApp, dashboard
from codomyrmex.integrations.web.event_stream import EventStreamApp, event_stream
from codomyrmex.integrations.web.health import HealthApp, health_app
from codomyrmex.integrations.web.http import require_token
from codomyrmex.integrations.web.ingest import EventIngestApp, event_ingest
from codomyrmex.integrations.web.metrics import MetricsApp, metrics_app
from codomyrmex.integrations.web.serve import PublicAddressError, check_address, serve, serving

if TYPE_CHECKING:
    from codomyrmex.integrations.web.alertmanager_api import AlertApiApp, alert_api
    from codomyrmex.integrations.web.page_client import PageClient

__all__ = [
    "AlertApiApp",
    "DashboardApp",
    "EventIngestApp",
    "EventStreamApp",
    "HealthApp",
    "MetricsApp",
    "PageClient",
    "PublicAddressError",
    "alert_api",
    "check_address",
    "dashboard",
    "event_ingest",
    "event_stream",
    "health_app",
    "metrics_app",
    "require_token",
    "serve",
    "serving",
]

# The alert API needs the packages of the extra `alerts`, and the client needs httpx.
_MODULES = {"AlertApiApp": "alertmanager_api", "PageClient": "page_client", "alert_api": "alertmanager_api"}

__getattr__ = lazy_exports(__name__, _MODULES)
