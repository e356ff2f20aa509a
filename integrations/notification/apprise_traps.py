"""Targets that Apprise reports as delivered to though nothing arrives."""

from __future__ import annotations

import sys
from inspect import isasyncgenfunction, isgeneratorfunction
from pathlib import Path
from typing import Any

from codomyrmex.integrations.delivery.sink import is_async

# Where the class that Apprise makes for a function under `@notify` keeps it, since 1.9.0 at least.
_FUNCTION = "_CustomNotifyPluginWrapper__send"


def false_success(service: Any) -> str | None:
    """Say why nothing would ever arrive at a target though each send succeeds; None where it may."""
    kind = type(service)
    syslog = kind.__module__ == "apprise.plugins.syslog"
    if syslog and sys.platform == "linux" and not Path("/dev/log").exists():
        return "there is no /dev/log, so no message would arrive anywhere"
    function = getattr(kind, _FUNCTION, None)
    if is_async(function) or isasyncgenfunction(function):
        return (
            "the function under @notify is an `async def`, which Apprise never awaits; make it a plain `def`"
        )
    if isgeneratorfunction(function):
        return "the function under @notify has a `yield`, so Apprise would never run it"
    return None
