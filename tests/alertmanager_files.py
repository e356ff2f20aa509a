"""The files for Alertmanager in `data/alertmanager`.

A comment at the beginning of a file says what differs: `amtool: newer` for what Debian's version does not
know yet, `amtool: refuses`, `here: refuses`, and `here: reported` if only `check` says that a receiver cannot
deliver: variables are replaced in secrets only, and not in the address of a mail.
"""

from __future__ import annotations

import functools
from pathlib import Path

from codomyrmex.integrations.notification import AlertConfig, load_alert_config

FOLDER = Path(__file__).parent / "data" / "alertmanager"
FILES = sorted(FOLDER.glob("*.yml"))
NEWER, REFUSED_THERE = "# amtool: newer\n", "# amtool: refuses\n"
REFUSED, REPORTED = "# here: refuses\n", "# here: reported\n"
ENVIRON = {
    **dict.fromkeys(("SMTP_PASSWORD", "BLOCKS_SMTP_PASSWORD", "HOOK_PASSWORD", "HOOK_TOKEN"), "p"),
    **dict.fromkeys(("PAGERDUTY_KEY", "OPSGENIE_KEY"), "0123456789abcdef0123456789abcdef"),
    **dict.fromkeys(("PUSHOVER_USER", "PUSHOVER_TOKEN"), "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"),
    "SLACK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "SLACK_CHANNEL": "#alerts",
    "DISCORD_URL": "https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz",
    "SMTP_HOST": "smtp.example.org",
    "SMTP_FROM": "alerts@example.org",
    "SMTP_USER": "alerts",
    "ALERTS_TO": "ops@example.org",
    "TELEGRAM_TOKEN": "333333333:EEExampleExampleExampleExampleExampl",
    "AMOUNT": "5",
}
LOADED = [file for file in FILES if REFUSED not in file.read_text(encoding="utf-8")]
DELIVERED = [file for file in LOADED if REPORTED not in file.read_text(encoding="utf-8")]


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def config_of(file: Path) -> AlertConfig:
    return load_alert_config(file, environ=ENVIRON)


def accepted_there(file: Path) -> bool:
    return not (NEWER in text_of(file) or REFUSED_THERE in text_of(file))
