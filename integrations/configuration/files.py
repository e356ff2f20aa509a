"""Files of configuration: their text, and whether they have changed."""

from __future__ import annotations

from pathlib import Path

from codomyrmex.integrations.configuration.problems import ConfigError, Problem

Stamp = tuple[int, int, int]


def read_text(path: Path, error_type: type[ConfigError]) -> str:
    """Read a file.

    Args:
        path: the file.
        error_type: what is raised.

    Raises:
        ConfigError: of the type given: it cannot be read, or is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"the file is not UTF-8 text, at byte {error.start}"
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        message = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
    raise error_type([Problem(message, file=str(path))])


def stamp_of(path: Path) -> Stamp | None:
    """Give what is another one when the file was changed or replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
