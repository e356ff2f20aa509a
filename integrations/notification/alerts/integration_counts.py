"""`IntegrationCounts`: counts the notifications of each type of channel, as Alertmanager does."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from codomyrmex.integrations.delivery.errors import PartialDeliveryError
from codomyrmex.integrations.notification.alerts.config_file import CHANNEL_TYPES
from codomyrmex.integrations.notification.channels import ChannelConfig

LATENCY_BOUNDS = (1.0, 5.0, 10.0, 15.0, 20.0)  # seconds
REASONS = ("clientError", "contextCanceled", "contextDeadlineExceeded", "serverError", "other")
_NAMES = {type_: key.removesuffix("_configs") for key, type_ in CHANNEL_TYPES.items()}
_REASONS = {
    "ChannelPermanentError": "clientError",
    "PermanentError": "clientError",
    "ChannelRetryableError": "serverError",
    "RetryableError": "serverError",
    "CancelledError": "contextCanceled",
    "TimeoutError": "contextDeadlineExceeded",
}


class Latency:
    """A histogram of the duration of requests.

    Attributes:
        counts: the number of requests in each bucket of `LATENCY_BOUNDS`, and above them; not cumulative.
        total: the sum of all durations in seconds.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a request that took so many seconds."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.total += seconds


class IntegrationCounts:
    """Counts of this process, by the type of channel under the name that it has in Alertmanager's metrics.

    Attributes:
        notifications: the number of notifications that were delivered or failed.
        failed: the number of notifications that failed, by the type of channel and the reason of the last
            failed attempt.
        requests: the number of attempts.
        failed_requests: the number of failed attempts.
        latency: the duration of attempts.
    """

    def __init__(self) -> None:
        self.notifications = Counter[str]()
        self.failed = Counter[tuple[str, str]]()
        self.requests = Counter[str]()
        self.failed_requests = Counter[str]()
        self.latency: dict[str, Latency] = {}
        self._integrations: dict[str, str] = {}  # the type of each channel, by its name
        self._last_reasons: dict[str, str] = {}  # by the name of the channel

    def use(self, channels: Iterable[ChannelConfig]) -> None:
        """Start counting for channels; the counts of each type start at zero."""
        for channel in channels:
            kind = self._integrations[channel.name] = _NAMES.get(type(channel), "application")
            self.latency.setdefault(kind, Latency())
            for counter in (self.notifications, self.requests, self.failed_requests):
                counter[kind] += 0
            for reason in REASONS:
                self.failed[kind, reason] += 0

    def attempted(self, channel: str, seconds: float, error_type: str | None) -> None:
        """Count an attempt to send a notification."""
        kind = self._integrations[channel]
        self.requests[kind] += 1
        self.latency[kind].add(seconds)
        if error_type is not None:
            self.failed_requests[kind] += 1
            if error_type != PartialDeliveryError.__name__:
                self.failed_with(channel, error_type)

    def failed_with(self, channel: str, error_type: str) -> None:
        """Remember the reason why the last attempt of a channel failed: the class of its error."""
        self._last_reasons[channel] = _REASONS.get(error_type, "other")

    def concluded(self, channel: str, *, failed: bool) -> None:
        """Count a notification that was delivered or failed."""
        kind = self._integrations.get(channel)
        if kind is not None:
            self.notifications[kind] += 1
            if failed:
                self.failed[kind, self._last_reasons.get(channel, "other")] += 1
