"""What a time that somebody gives has to be."""

from __future__ import annotations

import math


def check_seconds(name: str, value: object, *, zero: bool = False, finite: bool = False) -> None:
    """Raise a TypeError or a ValueError unless it is a number of seconds above 0.

    Args:
        name: what it is called in the message.
        value: what was given.
        zero: 0 means something too.
        finite: infinity does not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    if math.isnan(value) or value < 0 or (value == 0 and not zero) or (finite and math.isinf(value)):
        raise ValueError(f"{name} is {'0 or more' if zero else 'more than 0'} seconds, not {value}")
