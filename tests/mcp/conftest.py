"""Fixtures of the tests of the tools for assistants."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def server_of_another_test_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the exit flag of sse-starlette: once a server in this process has stopped, it sends nothing."""
    from sse_starlette.sse import AppStatus

    monkeypatch.setattr(AppStatus, "should_exit", False)
