"""Alert configurations and their tests as pytest collects them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from codomyrmex.integrations.notification.alerts.config import AlertConfig, AlertConfigError
from codomyrmex.integrations.notification.alerts.loading import load_alert_config
from codomyrmex.integrations.notification.alerts.simulation import run_test


class TestFailed(Exception):  # noqa: N818 - it ends a test, not a program
    """The notifications of a test differ from the expected ones."""

    __test__ = False


class AlertsFile(pytest.File):
    """A configuration of alert routing."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield an item for each test.

        Raises:
            CollectError: the configuration is invalid.
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
            TestFailed: the notifications differ from the expected ones.
        """
        result = run_test(self._alerts, self._number)
        if not result.passed:
            raise TestFailed(f"unexpected notifications (- missing, + unexpected):\n{result.report}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the difference, without a traceback."""
        if isinstance(excinfo.value, TestFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return the position of the test in its file."""
        line = self._alerts.line(f"tests[{self._number}]")
        return self.path, None if line is None else line - 1, self.name
