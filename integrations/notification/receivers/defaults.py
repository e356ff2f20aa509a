"""`ReceiverDefaults`: the keys of `global` that receivers use if they do not have their own."""

from __future__ import annotations

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.http_config import HttpConfig, TlsConfig

EXTERNAL_URL = "CODOMYRMEX_EXTERNAL_URL"
"""The environment variable with the `external_url` of files that have none."""


class ReceiverDefaults(msgspec.Struct, kw_only=True):
    """The defaults of receivers."""

    external_url: str = ""
    http_config: HttpConfig | None = None
    mattermost_webhook_url: Secret = Secret()
    mattermost_webhook_url_file: str = ""
    opsgenie_api_key: Secret = Secret()
    opsgenie_api_key_file: str = ""
    opsgenie_api_url: str = ""
    pagerduty_url: Secret = Secret()
    rocketchat_api_url: str = ""
    rocketchat_token: Secret = Secret()
    rocketchat_token_file: str = ""
    rocketchat_token_id: Secret = Secret()
    rocketchat_token_id_file: str = ""
    slack_api_url: Secret = Secret()
    slack_api_url_file: str = ""
    slack_app_token: Secret = Secret()
    slack_app_token_file: str = ""
    slack_app_url: Secret = Secret()
    smtp_auth_identity: str = ""
    smtp_auth_password: Secret = Secret()
    smtp_auth_password_file: str = ""
    smtp_auth_secret: Secret = Secret()
    smtp_auth_secret_file: str = ""
    smtp_auth_username: str = ""
    smtp_force_implicit_tls: bool | None = None
    smtp_from: str = ""
    smtp_hello: str = ""
    smtp_require_tls: bool = True
    smtp_smarthost: str = ""
    smtp_tls_config: TlsConfig | None = None
    telegram_api_url: str = ""
    telegram_bot_token: Secret = Secret()
    telegram_bot_token_file: str = ""
    victorops_api_key: Secret = Secret()
    victorops_api_key_file: str = ""
    victorops_api_url: str = ""
    webex_api_url: str = ""
    wechat_api_corp_id: str = ""
    wechat_api_secret: Secret = Secret()
    wechat_api_secret_file: str = ""
    wechat_api_url: str = ""
