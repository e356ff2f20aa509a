"""How many events senders may post, individually and together."""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections import OrderedDict

from codomyrmex.integrations.web import http
from codomyrmex.streaming import Clock
from starlette.exceptions import HTTPException
from starlette.requests import Request

_MAX_SENDERS = 1_000
_ROUNDING = 1e-9  # seconds
_TOTAL = 10  # times the rate of one sender
_IPV6_PREFIX = 64  # the prefix length of one customer


class _Bucket:
    """Allows `rate` events per second, and those of one second at once after a pause."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.burst = max(1, math.floor(rate))
        self._full_at = -math.inf  # the time at which the bucket is full again determines its level

    def wait(self, count: int, now: float) -> float:
        """Return the seconds until some events can be accepted."""
        return max(self._full_at, now) - now + (count - self.burst) / self.rate

    def spend(self, count: int, now: float) -> None:
        """Use up the room of some events."""
        self._full_at = max(self._full_at, now) + count / self.rate


class SenderRates:
    """The rates of all senders; the least recently active ones are forgotten.

    Args:
        rate: events per second for each sender; None for no limit.
        total_rate: events per second for all senders; by default ten times `rate`.
        clock: the clock.

    Raises:
        ValueError: a rate is not a finite number greater than 0.
    """

    def __init__(self, rate: float | None, total_rate: float | None, clock: Clock) -> None:
        for name, value in (("rate", rate), ("total_rate", total_rate)):
            valid = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
            if value is not None and not valid:
                raise ValueError(f"{name}: must be a finite number greater than 0, got {value!r}")
        if total_rate is None and rate is not None:
            total_rate = _TOTAL * rate
        self._rate = rate
        self._total = None if total_rate is None else _Bucket(total_rate)
        self._senders: OrderedDict[object, _Bucket] = OrderedDict()
        self._clock = clock

    def check(self, sender: object) -> None:
        """Raise an HTTPException if not even one event can be accepted from a sender."""
        self._buckets(sender, 1)

    def reserve(self, sender: object, count: int) -> None:
        """Reserve room for some events of a sender.

        Raises:
            HTTPException: with status 429 if there is no room now, and 413 if there never is.
        """
        now = self._clock.monotonic()
        for bucket in self._buckets(sender, count):
            bucket.spend(count, now)

    def _buckets(self, sender: object, count: int) -> list[_Bucket]:
        buckets = []
        if self._rate is not None:
            own = self._senders.pop(sender, None) or _Bucket(self._rate)
            self._senders[sender] = own
            if len(self._senders) > _MAX_SENDERS:
                self._senders.popitem(last=False)
            buckets.append(own)
        if self._total is not None:
            buckets.append(self._total)
        now = self._clock.monotonic()
        for bucket in buckets:
            if count > bucket.burst:
                message = f"too many events: at most {bucket.burst} are accepted at once at this rate"
                raise HTTPException(413, message)
            wait = bucket.wait(count, now)
            if wait > _ROUNDING:
                message = (
                    f"too many events: at most {bucket.rate:g} per second are accepted; none was published"
                )
                raise HTTPException(429, message, {"retry-after": str(math.ceil(wait))})
        return buckets


def sender_of(request: Request, *, with_token: bool) -> object:
    """Return what identifies the sender of a request: its address and, if tokens are checked, its token."""
    address: object = "" if request.client is None else request.client.host
    try:
        ip = ipaddress.ip_address(str(address))
    except ValueError:
        pass
    else:
        if ip.version == 6:  # noqa: PLR2004 - the version
            address = int(ip) >> (128 - _IPV6_PREFIX)
    if not with_token:
        return address
    token = http.bearer_token(request.headers) or request.query_params.get("access_token", "")
    return address, hashlib.sha256(token.encode(errors="replace")).digest()
