"""The command `codomyrmex-streaming`; it needs the extra `cli`."""

from __future__ import annotations

import sys

from codomyrmex.integrations._extras import MissingExtraError


def main() -> None:
    """Run the command with the arguments of the process, and exit with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # characters that a terminal cannot show must not fail
            stream.reconfigure(errors="backslashreplace")
    try:
        from codomyrmex.integrations.cli.app import app

        app(prog_name="codomyrmex-streaming")
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:  # during the import
        sys.exit(130)
