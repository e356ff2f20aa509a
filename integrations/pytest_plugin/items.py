"""The tests of a configuration as items of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from codomyrmex.integrations.notification.alerts.config import AlertConfig, AlertConfigError
from codomyrmex.integrations.notification.alerts.loading import load_alert_config
from codomyrmex.integrations.notification.alerts.scenarios import run_test


class TestFailed(Exception):  # noqa: N818 - it is how pytest learns of it
    """A test of a configuration did not give what it expects."""

    __test__ = False


class AlertsFile(pytest.File):
    """A configuration whose tests are collected."""

    def collect(self) -> Iterator[pytest.Item]:
        """Give an item for each test.

        Raises:
            CollectError: the configuration has mistakes.
        """
        try:
            config = load_alert_config(self.path)
        except AlertConfigError as error:
            raise self.CollectError(str(error)) from None
        for number, test in enumerate(config.tests):
            name = test.name or f"test {number + 1}"
            yield AlertsItem.from_parent(self, name=name, alerts=config, number=number)


class AlertsItem(pytest.Item):
    """One test of a configuration."""

    def __init__(self, *, alerts: AlertConfig, number: int, **kwargs: Any) -> None:
        super().__init__(**{"nodeid": None, **kwargs})
        self._alerts = alerts
        self._number = number

    def runtest(self) -> None:
        """Run the test in virtual time.

        Raises:
            TestFailed: what was sent is not what was expected.
        """
        result = run_test(self._alerts, self._number)
        if not result.passed:
            raise TestFailed(
                f"what was sent is not what was expected (- missing, + unexpected):\n{result.report}"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what differs, without a traceback."""
        if isinstance(excinfo.value, TestFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Tell where the test stands."""
        line = self._alerts.line(f"tests[{self._number}]")
        return self.path, None if line is None else line - 1, self.name
