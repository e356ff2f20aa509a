"""The name of this process among those that use the same streams."""

from __future__ import annotations

import os
import socket


def process_name() -> str:
    """Return the name of this process: `CODOMYRMEX_PROCESS`, or the host and the process id."""
    return os.environ.get("CODOMYRMEX_PROCESS") or f"{socket.gethostname()}:{os.getpid()}"
