"""`rare_collections`: garbage is collected rarely while a command handles many events."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely; what exists already is never collected."""
    thresholds = gc.get_threshold()
    gc.freeze()  # imported modules live until the end
    gc.set_threshold(50_000, 20, 50)  # many events are created, and none are in reference cycles
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
