"""Configuration files: their text, and whether they have changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from codomyrmex.integrations.configuration.problems import ConfigError, Problem

MAX_BYTES = 10_000_000
_PART = 65_536
Stamp = tuple[int, int, int]


def read_text(path: Path, error_type: type[ConfigError], max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Args:
        path: a file or a pipe; a device, which may have no end, is refused.
        error_type: what is raised if it cannot be read, is too large, or is not UTF-8.
        max_bytes: the limit of its size.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
            content = bytearray()
            # In parts, because `read` takes as much memory as it may read, before it does.
            while not is_device and len(content) <= max_bytes and (part := file.read(_PART)):
                content += part
        if is_device:
            message = "the file is a device"
        elif len(content) > max_bytes:
            message = f"the file is larger than {max_bytes // 1_000_000:,} MB"
        elif content.startswith(b"SQLite format 3\0"):
            message = "this is an SQLite database, such as the state of alerts, and not a configuration"
        else:
            return content.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the file is not UTF-8 text, at byte {error.start}"
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        message = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
    raise error_type([Problem(message, file=str(path))])


def stamp_of(path: Path) -> Stamp | None:
    """Return a value that differs after the file was changed or replaced; None while it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
