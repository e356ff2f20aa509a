"""Configuration files: their text, and whether they have changed."""

from __future__ import annotations

from pathlib import Path

from codomyrmex.integrations.configuration.problems import ConfigError, Problem

Stamp = tuple[int, int, int]


def read_text(path: Path, error_type: type[ConfigError]) -> str:
    """Return the text of a file, or raise an `error_type` if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
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
