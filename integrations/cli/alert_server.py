"""`codomyrmex-streaming alerts serve`: replaces an Alertmanager by an alert sink with the same API."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from contextlib import AsyncExitStack, suppress
from typing import Annotated
from urllib.parse import urlsplit

import typer
from codomyrmex.integrations import attach
from codomyrmex.integrations.cli.alert_state import StatePlace, check_path, place_of
from codomyrmex.integrations.cli.arguments import ConfigPath, finite
from codomyrmex.integrations.cli.garbage import rare_collections
from codomyrmex.integrations.cli.interrupts import Interrupts, on_signal
from codomyrmex.integrations.cli.messages import patient_messages, without_log
from codomyrmex.integrations.cli.output import (
    fail,
    print_message,
    print_problems,
    printable,
    reason_of,
    reporting_errors,
    stderr,
)
from codomyrmex.integrations.configuration.environment import is_header_text
from codomyrmex.integrations.notification import AlertConfig, AlertSink, load_alert_config
from codomyrmex.integrations.notification import lint as lint_config
from codomyrmex.integrations.notification.alerts.state_config import VARIABLE as STATE
from codomyrmex.integrations.notification.receivers.defaults import EXTERNAL_URL
from codomyrmex.integrations.pipelines.parts import Address
from codomyrmex.integrations.web import PublicAddressError, alert_api, check_address, serving
from codomyrmex.streaming import InMemoryStream

_SHOWN = {"note", "delivers-nothing"}  # the findings of lint that are printed at startup
_EVERY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 - only compared with


@patient_messages()
def serve(
    file: ConfigPath,
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The address to listen on.")
    ] = "127.0.0.1:9093",
    state: StatePlace = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="The token that requests need, as `Authorization: Bearer` or as the password of Basic "
            "authentication. Required unless only this machine can connect.",
            envvar="CODOMYRMEX_TOKEN",
            metavar="TOKEN",
        ),
    ] = None,
    external_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The URL under which others reach this server, for links in notifications.",
            envvar=EXTERNAL_URL,
            show_default=False,
        ),
    ] = None,
    path_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The path below which the API is served; by default that of --external-url.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Reload the file when it changes.")] = True,
    drain: Annotated[
        float,
        typer.Option(help="Seconds to send pending notifications on exit.", min=0, callback=finite),
    ] = 10.0,
) -> None:
    """Serve Alertmanager's API, and send notifications as an alertmanager.yml says.

    Prometheus, amtool and Grafana can use it in place of an Alertmanager. Silences and the notification log
    are kept in the state; of several processes with the same state, only one notifies.

    The file is reloaded on SIGHUP and when it changes; an invalid file changes nothing. On SIGTERM or Ctrl-C,
    pending notifications are sent before the process ends. A second signal drops them, and the exit code is
    then 143 for SIGTERM and 130 for Ctrl-C.
    """
    address = _read_address(listen)
    if token is not None and not (is_header_text(token) and token.strip()):
        raise typer.BadParameter("must be printable ASCII and not empty", param_hint="--token")
    try:
        check_address(address.host, token)
    except PublicAddressError:
        problem = (
            f"{address} can be reached from other machines; set CODOMYRMEX_TOKEN, or listen on 127.0.0.1"
        )
        raise typer.BadParameter(problem, param_hint="--listen") from None
    url = _read_url(external_url, address)
    prefix = _read_prefix(urlsplit(url).path if path_prefix is None else path_prefix)
    with reporting_errors(as_json=False):
        config = load_alert_config(file)
    is_kept = _find_state(state, config)
    findings = [each for each in lint_config(config, time.time()) if each.kind in _SHOWN]
    print_problems(stderr(), findings, "note", "cyan")
    if not is_kept:
        print_message("silences and the notification log are lost when this process ends; --state keeps them")
    os.environ[EXTERNAL_URL] = url  # read whenever the file is loaded
    sink = AlertSink(file, watch=watch, drain_timeout=drain)
    with Interrupts() as interrupts:
        try:
            with rare_collections():
                asyncio.run(_Server(sink, address, prefix, token, interrupts).run())
        except Exception as error:  # noqa: BLE001 - a channel may raise anything when it is opened
            fail(f"the server cannot start: {reason_of(error)}", as_json=False)
    if interrupts.exit_code is not None:
        raise typer.Exit(interrupts.exit_code)


def _read_address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise typer.BadParameter(printable(str(error)), param_hint="--listen") from None


def _read_url(text: str | None, address: Address) -> str:
    """Return the URL for links in notifications; by default that of this host, as in Alertmanager."""
    if text is None:
        name = socket.gethostname() if address.host in _EVERY_ADDRESS else ""
        return f"http://{f'{name}:{address.port}' if name else address}" if address.port else ""
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment):
            return text.rstrip("/")
    problem = f"must be a URL such as https://example.com/alertmanager, got {printable(text)!r}"
    raise typer.BadParameter(problem, param_hint="--external-url")


def _read_prefix(text: str) -> str:
    prefix = text.strip("/")
    if not re.fullmatch(r"[\w.~/-]*", prefix, re.ASCII):
        problem = f"must be a path such as /alertmanager, got {printable(text)!r}"
        raise typer.BadParameter(problem, param_hint="--path-prefix")
    return f"/{prefix}" if prefix else ""


def _find_state(state: str | None, config: AlertConfig) -> bool:
    """Set the environment variable with the location of the state; return whether there is a state.

    Raises:
        typer.BadParameter: the state cannot be at this location, or the file already names one.
    """
    if config.state is not None:
        if state is not None:
            problem = "the file already has a `state:`; remove it there, or omit this option"
            raise typer.BadParameter(problem, param_hint="--state")
        return True
    if state is None and not os.environ.get(STATE):
        return False
    place = place_of(state, None, None, None, as_json=False)
    check_path(place, must_exist=False)
    os.environ[STATE] = place.url
    return True


class _Server:
    """An alert sink whose API is served until a signal is received."""

    def __init__(
        self, sink: AlertSink, address: Address, prefix: str, token: str | None, interrupts: Interrupts
    ) -> None:
        self._sink = sink
        self._address = address
        self._prefix = prefix
        self._token = token
        self._interrupts = interrupts
        self._reload = asyncio.Event()

    async def run(self) -> None:
        on_signal("SIGHUP", self._reload.set)
        app = alert_api(self._sink, prefix=self._prefix)
        async with AsyncExitStack() as stack:
            server = serving(app, self._address.host, self._address.port, self._token)
            try:  # before the state is opened, so that a port in use is reported before anything is sent
                url = await stack.enter_async_context(server)
            except OSError as error:
                reason = (error.strerror or str(error)).partition(" (while")[0]
                raise OSError(f"cannot listen on {self._address}: {reason}") from None
            await self._run_sink(f"{url.rstrip('/')}{self._prefix}")

    async def _run_sink(self, url: str) -> None:
        attachment = attach(InMemoryStream(), self._sink)
        shown = without_log("notification.alerts.sink", "sink %s: %s", "sink %s could not be opened")
        with shown:  # this command prints these errors itself
            started = await self._interrupts.unless_interrupted(attachment.start())
        if not started:
            return
        print_message(f"listening on {url}")
        try:
            await self._interrupts.unless_interrupted(self._reload_on_demand())
            print_message("stopping; press Ctrl-C again to drop pending notifications")
        finally:
            await self._interrupts.unless_interrupted(attachment.aclose(), 2)

    async def _reload_on_demand(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            with suppress(Exception):  # the sink has logged why it keeps the old configuration
                await self._sink.reload()
                print_message("the configuration was reloaded")
