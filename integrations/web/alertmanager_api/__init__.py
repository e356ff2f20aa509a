"""`alert_api`: Alertmanager's API, version 2, for an alert sink."""

from __future__ import annotations

from codomyrmex.integrations.web.alertmanager_api.app import AlertApiApp, alert_api

__all__ = ["AlertApiApp", "alert_api"]
