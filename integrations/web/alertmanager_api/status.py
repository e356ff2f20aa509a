"""The status: the version, the cluster, and the configuration in Alertmanager's format."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import codomyrmex.streaming as package
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.integrations.web.alertmanager_api.config_text import config_text
from codomyrmex.integrations.web.alertmanager_api.encoding import shown_time

# Starts with the version of Alertmanager whose API is served: clients use it to decide which features exist.
VERSION = f"0.34.0+codomyrmex-streaming.{package.__version__}"
_ROLES = {NotifierRole.ALONE: "disabled", NotifierRole.AWAY: "settling"}


def status(sink: AlertSink, members: Iterable[str], since: float) -> dict[str, Any]:
    """Return the status of an alert sink.

    Args:
        sink: the sink, which must be open.
        members: the names of the processes that share its alerts.
        since: when the application was created, in seconds since 1970.
    """
    role = sink.role
    cluster: dict[str, Any] = {
        "peers": [],
        "status": "disabled" if role is None else _ROLES.get(role, "ready"),
    }
    if role is not NotifierRole.ALONE:
        peers = [{"address": "", "name": name} for name in members]
        cluster = {"name": process_name(), "peers": peers, "status": cluster["status"]}
    return {
        "cluster": cluster,
        "config": {"original": config_text(sink.config)},
        "uptime": shown_time(since),
        "versionInfo": {
            "branch": "",
            "buildDate": "",
            "buildUser": "",
            "goVersion": f"python{platform.python_version()}",
            "revision": "",
            "version": VERSION,
        },
    }
