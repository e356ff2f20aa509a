"""One line on a terminal that tells how a pipeline goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from codomyrmex.integrations.cli.output import err
from codomyrmex.integrations.pipelines.pipeline import Pipeline

_EVERY = 0.5  # seconds


async def show_progress(pipeline: Pipeline) -> None:
    """Show a line until cancelled; nothing where stderr is no terminal.

    Args:
        pipeline: what it tells of.
    """
    console = err()
    if not console.is_terminal:
        return
    came, at = pipeline.came, time.monotonic()
    with console.status("starting", spinner="dots") as status:
        while True:
            await asyncio.sleep(_EVERY)
            now = time.monotonic()
            rate = (pipeline.came - came) / (now - at)
            came, at = pipeline.came, now
            status.update(", ".join(_parts(pipeline, rate)))


def _parts(pipeline: Pipeline, rate: float) -> Iterator[str]:
    yield f"{pipeline.came:,} events, {rate:,.0f} a second"
    health = pipeline.attachment.health()
    queued = sum(sink.queued + sink.in_flight for sink in health.values())
    if queued:
        yield f"{queued:,} queued"
    dropped = sum(sum(sink.dropped.values()) + sink.dead for sink in health.values())
    if dropped:
        yield f"[red]{dropped:,} dropped[/red]"
    bad = [name for name, sink in health.items() if sink.state not in {"ok", "closed"}]
    if bad:
        yield f"[yellow]{', '.join(bad)} not ok[/yellow]"
