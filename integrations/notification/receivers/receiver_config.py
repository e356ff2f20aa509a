"""`ReceiverConfig`: what the receivers of Alertmanager have in common; their texts are Go templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.configuration.problems import at
from codomyrmex.integrations.configuration.reading import fields_of
from codomyrmex.integrations.notification.channels import ChannelConfig, ChannelRetryableError
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.go_templates import GoTemplate, GoTemplates
from codomyrmex.integrations.notification.receivers.data import alertmanager_data
from codomyrmex.integrations.notification.receivers.defaults import ReceiverDefaults
from codomyrmex.integrations.notification.templates import TemplateError

_MAX_SECRET = 1_000_000  # bytes of a file with a secret


@dataclass(frozen=True)
class Context:
    """What a receiver uses from the rest of its file.

    Args:
        defaults: the keys of `global`.
        templates: compiles the texts; not compared.
        digest: differs for other templates.
        folder: the folder of the file, which relative paths start from.
    """

    defaults: ReceiverDefaults = field(default_factory=ReceiverDefaults)
    templates: GoTemplates | None = field(default=None, compare=False, repr=False)
    digest: str = ""
    folder: Path = Path()
    _compiled: dict[tuple[str, bool], GoTemplate] = field(default_factory=dict, compare=False, repr=False)

    def compile(self, text: str, *, html: bool = False) -> GoTemplate:
        """Return the template of a text; each is compiled once."""
        key = text, html
        if key not in self._compiled:
            templates = GoTemplates() if self.templates is None else self.templates
            self._compiled[key] = templates.compile(text, html=html)
        return self._compiled[key]


_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_DURATION = re.compile(rf"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:{'|'.join(_GO_UNITS)})")


class GoDuration(Duration):
    """Seconds, parsed from text as Go does, with fractions such as `1.5m` (`time.ParseDuration`)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse whole or fractional numbers with the units h, m, s, ms, us and ns; or what Prometheus takes.

        Raises:
            ValueError: the text is not a duration.
        """
        parts = _GO_DURATION.findall(text)
        if not parts or "".join(parts) != text:
            return super().parse(text)
        numbers = ((part.rstrip("hmnsu\u00b5"), part) for part in parts)
        return cls(sum(float(number) * _GO_UNITS[part[len(number) :]] for number, part in numbers))


class ReceiverConfig(ChannelConfig, kw_only=True, frozen=True):
    """An item of a list such as `slack_configs`.

    Attributes:
        context: the rest of the file; set by the loader.
    """

    __internal__: ClassVar[frozenset[str]] = frozenset({"body", "context", "format", "name", "title"})
    # Options that are text, but no templates; and secrets that are templates.
    __literal__: ClassVar[frozenset[str]] = frozenset()
    __secret_templates__: ClassVar[frozenset[str]] = frozenset()
    # Files that take precedence over the option without `_file`; two of the others are a problem.
    __file_first__: ClassVar[frozenset[str]] = frozenset()
    # Options whose defaults are keys of `global`; of each group the first that is given counts.
    __global__: ClassVar[tuple[Mapping[str, str], ...]] = ()

    context: Context = msgspec.field(default_factory=Context)
    timeout: GoDuration = GoDuration(10)

    def completed(self, context: Context) -> Self:
        """Return the options with the defaults of the file."""
        changes: dict[str, Any] = {"context": context}
        for group in self.__global__:
            if not any(getattr(self, name) for name in group):
                changes.update({name: getattr(context.defaults, key) for name, key in group.items()})
        if not self.timeout:  # in Alertmanager, no limit of its own
            changes["timeout"] = GoDuration(10)
        return msgspec.structs.replace(self, **changes)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.timeout <= 0:
            yield "timeout", f"must be greater than 0, got {self.timeout}"
        for name in self.__struct_fields__:
            if name.endswith("_file") and name not in self.__file_first__:
                yield from self.only_one(name.removesuffix("_file"), name)

    def templates(self) -> Iterator[tuple[str, str]]:
        """Yield each text that may be a template, with the option that has it."""
        skipped = self.__literal__ | {"body", "context", "format", "http_config", "name", "tls_config"}
        if "title" in self.__internal__:
            skipped |= {"title"}
        for option in fields_of(type(self)):
            if option.name not in skipped and not option.name.endswith("_file"):
                value = getattr(self, option.name)
                value = str(value) if option.name in self.__secret_templates__ else value
                yield from _texts(value, option.encode_name)

    def only_one(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yield a problem if more than one of some options is given."""
        given = [name for name in names if getattr(self, name)]
        if len(given) > 1:
            yield given[1], f"{given[0]} and {given[1]} are both given; remove one"

    def html_option(self) -> str:
        """Return the option whose template escapes values, if there is one."""
        return ""

    def required(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yield a problem unless one of some options is given, here or in `global`."""
        if not any(getattr(self, name) for name in names):
            elsewhere = [group[names[0]] for group in self.__global__ if names[0] in group]
            hint = f", here or as {elsewhere[0]} in global" if elsewhere else ""
            yield "", f"{' or '.join(name.rstrip('_') for name in names)} is required{hint}"

    def compose(self, notification: Mapping[str, Any], default: Message) -> Message:  # noqa: ARG002
        """Return the message of a notification.

        Args:
            notification: the data of its event.
            default: the default message.

        Raises:
            TemplateError: a template fails with this notification.
        """
        return default

    def outline(self, notification: Mapping[str, Any], default: Message) -> Message:  # noqa: ARG002
        """Return the default message, with where it is sent, when a template of the receiver fails."""
        return default

    def rendered_if_possible(self, names: Iterable[str], data: Mapping[str, Any]) -> dict[str, str]:
        """Return options that are templates, rendered; one that fails is empty."""
        texts = dict.fromkeys(names, "")
        for name in texts:
            with suppress(TemplateError):
                texts[name] = self.rendered(getattr(self, name), data)
        return texts

    def data(self, notification: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the templates of the receiver see."""
        return alertmanager_data(notification, self.context.defaults.external_url)

    def rendered(self, value: Any, data: Mapping[str, Any]) -> Any:
        """Return plain data with the texts of an option rendered; what is empty in a struct is left out."""
        if isinstance(value, Secret):
            return value
        if isinstance(value, str):
            return self.context.compile(value).render(data)
        if isinstance(value, msgspec.Struct):
            items = ((each.encode_name, getattr(value, each.name)) for each in fields_of(type(value)))
            shown = ((name, self.rendered(item, data)) for name, item in items if item is not None)
            return {name: item for name, item in shown if item != ""}
        if isinstance(value, (list, tuple)):
            return [self.rendered(item, data) for item in value]
        if isinstance(value, Mapping):
            return {self.rendered(str(key), data): self.rendered(item, data) for key, item in value.items()}
        return value

    def secret(self, name: str) -> Secret:
        """Return a secret, from its file if it has one; this blocks.

        Raises:
            ChannelRetryableError: the file cannot be read; the message has its name only.
        """
        file = getattr(self, f"{name}_file", "")
        return self.read_secret(file) if file else Secret(getattr(self, name))

    def read_secret(self, file: str) -> Secret:
        """Return the text of a file without white space around it; raises as `secret`."""
        path = self.context.folder / file
        try:
            with path.open("rb") as opened:
                return Secret(opened.read(_MAX_SECRET).decode().strip())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
        raise ChannelRetryableError(f"channel {self.name}: the file {path} cannot be read: {reason}")


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Secret):
        return
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, msgspec.Struct):
        for option in fields_of(type(value)):
            yield from _texts(getattr(value, option.name), at(path, option.encode_name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, at(path, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _texts(item, at(path, number))


def shortened(text: str, length: int) -> str:
    """Return a text with at most a number of characters."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"
