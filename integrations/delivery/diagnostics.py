"""`Diagnostics` for the integrations, and the one way in which all packages log an exception.

With this module imported, the log lines of `codomyrmex.streaming` show exceptions without secrets too. Such a
record has no `exc_info`, because formatters and error trackers would render the exception as it is.
"""

from __future__ import annotations

from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.streaming import diagnostics
from codomyrmex.streaming.diagnostics import Diagnostics

__all__ = ["Diagnostics"]

diagnostics.format_error = LazyTraceback
diagnostics.describe_error = describe
