"""What it means that Apprise did not deliver: try again, give up, or nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

from codomyrmex.integrations.notification.apprise_http import Answer
from codomyrmex.integrations.notification.channel_errors import (
    ChannelError,
    ChannelPermanentError,
    ChannelRetryableError,
)

_NOT_NOW = frozenset({408, 425, 429})  # RFC 9110, 8470 and 6585: the same request may work later


def failure(who: str, answers: Sequence[Answer], codes: Sequence[int], raised: str | None) -> ChannelError:
    """Make the error for a notification that was not delivered.

    With several targets in one URL some may have taken it, and only some may be worth another try. Then
    all of it is tried again: to send twice is better than to lose.

    Args:
        who: the channel.
        answers: what its requests brought.
        codes: the codes of errors in its log, which count where no request failed.
        raised: the class of what Apprise raised, if it did.
    """
    failed = [answer for answer in answers if answer.raised or (answer.status or 0) >= 400]  # noqa: PLR2004
    failed = failed or [Answer(code) for code in codes]
    later = [answer for answer in failed if _may_work_later(answer)]
    if later:
        wait = max((a.retry_after for a in later if a.retry_after is not None), default=None)
        return ChannelRetryableError(f"{who} did not deliver: {_said(later[-1])}", retry_after=wait)
    refused = [answer for answer in failed if 400 <= (answer.status or 0) < 500]  # noqa: PLR2004
    if refused:
        return ChannelPermanentError(f"{who} did not deliver: {_said(refused[-1])}")
    if raised is not None:
        return ChannelError(f"{who} raised {raised}")
    return ChannelError(f"{who} did not deliver" + (f": {_said(failed[-1])}" if failed else ""))


def _may_work_later(answer: Answer) -> bool:
    status = answer.status or 0
    return answer.lost or status in _NOT_NOW or status >= 500  # noqa: PLR2004


def _said(answer: Answer) -> str:
    return answer.raised or f"status {answer.status}"
