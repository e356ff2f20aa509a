"""What the caller of a tool may see: `mcp_app` sets it for each request."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from codomyrmex.integrations.mcp.backend import BackendError

AllowsTopic = Callable[[str | None], bool]

allowed_topics: ContextVar[AllowsTopic | None] = ContextVar("allowed_topics", default=None)
"""Whether the caller may see the events of a topic; None if it may see everything."""


def require_everything() -> None:
    """Raise a BackendError if the caller may not see everything."""
    if allowed_topics.get() is not None:
        raise BackendError("this needs access to all topics; use a token that has it")
