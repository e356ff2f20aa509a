"""`rare_collections`: collects garbage rarely while a command handles many events."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely, and leave out all objects that exist already."""
    thresholds = gc.get_threshold()
    gc.freeze()  # imported modules live until the process ends
    gc.set_threshold(50_000, 20, 50)  # commands create many events, which are not in reference cycles
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
