"""`Diagnostics`: the way in which the integrations log an exception, without its secrets."""

from __future__ import annotations

from codomyrmex.integrations.delivery.secrets import LazyTraceback
from codomyrmex.streaming import diagnostics


class Diagnostics(diagnostics.Diagnostics):
    """Rate-limited log lines, as in `codomyrmex.streaming`, whose tracebacks contain no secrets.

    The record has no `exc_info`: formatters and error trackers would render the exception as it is.
    """

    def warning(self, key: str, message: str, *args: object, error: BaseException | None = None) -> None:
        if error is not None:
            message, args = f"{message}\n%s", (*args, LazyTraceback(error))
        super().warning(key, message, *args)
