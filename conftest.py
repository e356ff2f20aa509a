"""Run the code blocks of README.md and docs/ as tests, and keep reports printable."""

from collections.abc import Generator
from pathlib import Path

import pytest
import structlog
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_plugins = [
    "pytester",
    "codomyrmex.integrations.pytest_plugin",
    "durable.servers",
    "durable.stores",
    "browsers",
    "http_answers",
]

# The code of these pages has tests of its own: tests/test_{tutorial,contributing,deployment}.py.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md"],
    excludes=["CONTRIBUTING.md", "docs/tutorial.md", "docs/deployment.md"],
    fixtures=["own_folder"],
).pytest()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a code block in a folder of its own, for the files that it writes."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _structlog_defaults() -> Generator[None, None, None]:
    """Forget what a test configured: a logger factory may hold the standard output that the test replaced."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what UTF-8 cannot encode: tests log hostile text, and xdist sends reports between processes."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
