"""The status of the API: its version, its cluster, and its configuration in Alertmanager's form."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

import codomyrmex.streaming as package
from codomyrmex.integrations.configuration.process import process_name
from codomyrmex.integrations.notification import AlertSink, NotifierRole
from codomyrmex.integrations.web.alertmanager_api.shown import shown_time
from codomyrmex.integrations.web.alertmanager_api.shown_config import shown_config

# That of Alertmanager whose API this is comes first, as tools decide by it what they can use.
VERSION = f"0.34.0+codomyrmex-streaming.{package.__version__}"
_ROLES = {NotifierRole.ALONE: "disabled", NotifierRole.AWAY: "settling"}


def status(sink: AlertSink, members: Iterable[str], since: float) -> dict[str, Any]:
    """Return the status of an alert sink.

    Args:
        sink: it must be open.
        members: the names of the processes that share its alerts.
        since: when it was started, in seconds since 1970.
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
        "config": {"original": shown_config(sink.config)},
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
