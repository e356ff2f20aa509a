"""The pytest plugin: collects and runs the `tests:` of files named `*.alerts.yaml`.

pytest imports it in every run, so it imports nothing else until there is such a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a configuration of alert routing."""
    if not file_path.name.endswith((".alerts.yaml", ".alerts.yml")):
        return None
    from codomyrmex.integrations.pytest_plugin.items import AlertsFile

    return AlertsFile.from_parent(parent, path=file_path)
