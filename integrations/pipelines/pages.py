"""The pages and streams of a pipeline, served over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codomyrmex.integrations.pipelines.file import Dashboard
from codomyrmex.integrations.pipelines.served import Served
from codomyrmex.integrations.pipelines.sinks import Page
from codomyrmex.integrations.web.dashboard import dashboard
from codomyrmex.integrations.web.event_stream import event_stream

if TYPE_CHECKING:
    from codomyrmex.integrations.pipelines.pipeline import Pipeline


def serve_page(pipeline: Pipeline, page: Page) -> Served:
    """Make the server of a page or stream.

    Args:
        pipeline: what it shows.
        page: what stands in the configuration, and the events for it.
    """
    file = page.file
    if isinstance(file, Dashboard):
        app: Any = dashboard(
            page.stream,
            pipeline.attachment,
            pipeline.alert_sink(),
            pipeline.board,
            audit=pipeline.audit,
            allow_actions=file.token if file.actions else None,
            title=file.title,
            signals=False,
        )
    else:
        app = event_stream(
            page.stream, data=file.data, replay=file.replay, allow_origins=file.allow_origins, signals=False
        )
    return Served(app, file.listen, file.token)
