"""The command `codomyrmex-streaming`; it needs the extra `cli`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress

from codomyrmex.integrations._extras import MissingExtraError

_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Run the command with the arguments of the process, and exit with its exit code."""
    _prepare_standard_streams()
    try:
        from codomyrmex.integrations.cli.app import app

        app(prog_name="codomyrmex-streaming")
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:  # during an import, or at the very end
        sys.exit(130)
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS or error.filename is not None:
            raise
        sys.stderr.write(f"stdout: cannot be written: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(1)
    finally:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is decided


def _prepare_standard_streams() -> None:
    """Make the standard streams safe to use, whatever the command inherits."""
    # A closed descriptor would be given to the next file or socket, which messages would then be written to.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # noqa: PLR2004 - stderr
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - as Python declares it
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as with `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # characters that a terminal cannot show must not fail
            stream.reconfigure(errors="backslashreplace")
