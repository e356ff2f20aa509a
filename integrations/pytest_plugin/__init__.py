"""The pytest plugin: the `tests:` of files named `*.alerts.yaml`, and the fixtures `alert_sink` and `sent`.

pytest imports it in every run, so it imports nothing else until there is such a file or test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from codomyrmex.integrations.pytest_plugin.alert_fixtures import SentNotification, TestedAlerts
    from codomyrmex.streaming import Stream


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a configuration of alert routing."""
    if not file_path.name.endswith((".alerts.yaml", ".alerts.yml")):
        return None
    from codomyrmex.integrations.pytest_plugin.items import AlertsFile

    return AlertsFile.from_parent(parent, path=file_path)


@pytest.fixture
def sent() -> list[SentNotification]:
    """Return the notifications that the test's alert sinks would have sent so far, oldest first."""
    return []


@pytest.fixture
def alert_sink(sent: list[SentNotification]) -> Callable[..., TestedAlerts]:
    """Return a function that creates an alert sink for a test. It sends nothing, and the test sets its time.

    `async with alert_sink("alerts.yml", stream) as alerts:` attaches it to a stream of the application, or
    to a new one. `await alerts.publish(event)` publishes to that stream, `await alerts.advance(60)` advances
    the clock by a minute, and `sent` has the notifications that would have been sent.
    """
    from codomyrmex.integrations.pytest_plugin.alert_fixtures import TestedAlerts

    def make(config: Any, stream: Stream | None = None, **options: Any) -> TestedAlerts:
        return TestedAlerts(config, sent, stream, **options)

    return make
