"""The command `codomyrmex-streaming`; it needs the extra `cli`."""

from __future__ import annotations

import sys

from codomyrmex.integrations._extras import MissingExtraError


def main() -> None:
    """Run the command with the arguments of the process, and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        from codomyrmex.integrations.cli.app import app
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:  # while it was being loaded
        sys.exit(130)
    app(prog_name="codomyrmex-streaming")
