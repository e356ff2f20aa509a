"""`sns_configs`: messages of Amazon's notification service, through Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.notification.receivers.apprise_receiver import AppriseReceiver, apprise_url


class Sigv4(msgspec.Struct, kw_only=True, frozen=True):
    """The credentials of Amazon's services."""

    __ignored__: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            "external_id",
            "profile",
            "role_arn",
            "service_name",
            "session_name",
            "tags",
            "use_fips_sts_endpoint",
        ),
        "not used here: only region, access_key and secret_key are",
    )

    region: str = ""
    access_key: str = ""
    secret_key: Secret = Secret()


class SnsConfig(AppriseReceiver, kw_only=True, frozen=True):
    """An item of `sns_configs`; its options are those of Alertmanager."""

    __title__ = "subject"
    __url_texts__ = ("phone_number", "target_arn", "topic_arn")
    __literal__ = frozenset({"api_url", "sigv4"})
    __ignored__: ClassVar[dict[str, str]] = {
        "attributes": "not sent here: Apprise has no attributes",
        "use_aws_http_client": "not used here: Apprise sends this, with its own HTTP client",
    }

    api_url: str = ""
    sigv4: Sigv4 = msgspec.field(default_factory=Sigv4)
    topic_arn: str = ""
    phone_number: str = ""
    target_arn: str = ""
    subject: str = '{{ template "sns.default.subject" . }}'
    message: str = '{{ template "sns.default.message" . }}'

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from self.required("topic_arn", "target_arn", "phone_number")
        yield from self.only_one("topic_arn", "target_arn", "phone_number")

    def notes(self) -> Iterator[tuple[str, str]]:
        yield from super().notes()
        if self.api_url:
            yield "api_url", "not used here: messages go to the endpoint of the region"

    def findings(self) -> Iterator[tuple[str, str]]:
        if not (self.sigv4.access_key and self.sigv4.secret_key):
            yield (
                "sigv4",
                "access_key and secret_key are required to deliver: roles and profiles are not used",
            )
            return
        yield from super().findings()

    @property
    def scheme(self) -> str:
        return "sns"

    def url_of(self, texts: Mapping[str, Any]) -> str:
        arn = texts["topic_arn"] or texts["target_arn"]
        self.needed("topic_arn", arn or texts["phone_number"])
        region = self.sigv4.region or (arn.split(":")[3] if arn.count(":") > 3 else "")  # noqa: PLR2004
        target = texts["phone_number"] or f"#{arn.rpartition(':')[2]}"
        query = {"secret": str(self.sigv4.secret_key)}
        return apprise_url("sns", self.sigv4.access_key, region, target, query=query)
