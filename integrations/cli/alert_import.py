"""`codomyrmex-streaming alerts import`: converts an `alertmanager.yml` to the format used here."""

from __future__ import annotations

import time

import typer
from codomyrmex.integrations.cli.arguments import ConfigPath
from codomyrmex.integrations.cli.output import reporting_errors
from codomyrmex.integrations.notification.alerts.importing import import_config


def import_(file: ConfigPath) -> None:
    """Convert an alertmanager.yml to the format used here, and print it.

    The result is equivalent, with a comment for each change and for everything that differs from
    Alertmanager. Secrets are printed as they are in the file. The file can also be used without conversion.
    """
    with reporting_errors(as_json=False):
        text = import_config(file, time.time())
    typer.echo(text, nl=False)
