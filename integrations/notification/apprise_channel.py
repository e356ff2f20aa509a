"""`AppriseChannel`: each event becomes a notification through one Apprise URL."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from importlib import import_module
from typing import Any

from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.delivery.errors import DeliveryError, PartialDeliveryError
from codomyrmex.integrations.delivery.sink import Sink
from codomyrmex.streaming import Event, EventType

_MAX_TITLE = 200
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")

# Who logs what Apprise does, with the URL or what it is turned into. A filter of a logger does not see
# what its children log, so each has to be named.
_TALKATIVE = ("apprise", "urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")


class ChannelError(DeliveryError):
    """A channel could not be set up or did not deliver. Speaks of its name and scheme, never its URL."""


class AppriseChannel(Sink):
    """Sends events as notifications to the one target of an Apprise URL.

    Apprise is imported when the channel opens, and called in a thread of the channel's own, so that
    neither the event loop nor another channel ever waits for it. The URL holds secrets and is never
    shown.

    Args:
        name: what the channel is called in reports, logs and errors.
        url: an Apprise URL, such as `json://127.0.0.1:8080/`.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url
        scheme = _SCHEME.match(url)
        self._scheme = "no scheme" if scheme is None else scheme[0]
        self._apprise: Any = None
        self._service: Any = None
        self._executor: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<AppriseChannel {self.name} ({self._scheme})>"

    async def open(self) -> None:
        """Load Apprise and set up the target.

        Raises:
            MissingExtraError: Apprise is not installed.
            ChannelError: Apprise does not take the URL.
        """
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"apprise {self.name}")
        try:
            await self._in_thread(self._load)
        except BaseException:
            await self.close()
            raise

    async def send(self, events: Sequence[Event]) -> None:
        failed: dict[str, Exception] = {}
        done = 0
        try:
            for event in events:
                try:
                    await self._in_thread(self._notify, event)
                except ChannelError as error:
                    failed[event.id] = error
                done += 1
        except asyncio.CancelledError:
            # Cut off by the timeout: say what got through, so that only the rest is sent again.
            cut_off = ChannelError(f"channel {self.name} ({self._scheme}) was cut off before it was done")
            failed.update((event.id, cut_off) for event in events[done:])
        if failed:
            raise PartialDeliveryError(failed)

    async def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    async def _in_thread(self, call: Any, *args: Any) -> None:
        context = copy_context()  # so that what is logged there is known for what it comes from
        await asyncio.get_running_loop().run_in_executor(self._executor, context.run, call, *args)

    def _load(self) -> None:
        try:
            self._apprise = import_module("apprise")
        except ImportError as error:
            raise MissingExtraError("AppriseChannel", "apprise", "apprise") from error
        why = "does not know such a URL"
        try:
            with _muted():
                self._service = self._apprise.Apprise.instantiate(self._url)
        except Exception as error:  # noqa: BLE001 - what it says may hold the URL, so only its type goes on
            why = f"raised {type(error).__name__}"
        if not self._service:
            raise ChannelError(f"channel {self.name} ({self._scheme}) cannot be set up: Apprise {why}")

    def _notify(self, event: Event) -> None:
        bad = event.type is EventType.ERROR
        kinds = self._apprise.NotifyType
        why = f"({self._scheme}) did not deliver"
        sent = False
        try:
            with _muted():
                sent = self._service.notify(
                    title=_title(event),
                    body=_body(event),
                    notify_type=kinds.FAILURE if bad else kinds.INFO,
                    body_format=self._apprise.NotifyFormat.TEXT,
                )
        except Exception as error:  # noqa: BLE001 - it may quote the URL, so only its type goes on
            why = f"({self._scheme}) raised {type(error).__name__}"
        if not sent:
            raise ChannelError(f"channel {self.name} {why}")


@contextmanager
def _muted() -> Iterator[None]:
    """Silence what is logged from this thread about a URL."""
    thread = threading.get_ident()

    def elsewhere(_: logging.LogRecord) -> bool:
        return threading.get_ident() != thread  # a filter runs in the thread that logs

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(elsewhere)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(elsewhere)


def _title(event: Event) -> str:
    name = str(event.metadata.get("event") or event.topic or event.type.value)
    shown = "".join(c if c.isprintable() else " " for c in f"{event.type.value.upper()} {name}")
    return " ".join(shown.split())[:_MAX_TITLE]


def _body(event: Event) -> str:
    data = event.to_dict()["data"]
    text = data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False)
    return text or "(no data)"
