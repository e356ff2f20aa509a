"""The values of Go templates: the data of a notification in the shape of Alertmanager, and its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any, ClassVar, NamedTuple

from codomyrmex.integrations.notification.go_templates.errors import GoError
from codomyrmex.integrations.notification.go_templates.times import (
    SECOND,
    Duration,
    Month,
    Time,
    Weekday,
    parse_time,
)


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


class Url(str):
    """A text that is a safe URL."""

    __slots__ = ()


class Strings(list[str]):
    """A list of texts."""


class KV(dict[str, str]):
    """Labels or annotations."""

    def sorted_pairs(self) -> Pairs:
        """Return the names and values by name, `alertname` first."""
        return Pairs([Pair._make((name, self[name])) for name in self.names()])

    def names(self) -> Strings:
        """Return the names in order, `alertname` first."""
        names = Strings(sorted(self))
        if "alertname" in self:
            names.remove("alertname")
            names.insert(0, "alertname")
        return names

    def values_by_name(self) -> Strings:
        """Return the values in the order of the names."""
        return Strings(self[name] for name in self.names())

    def remove(self, names: Sequence[str]) -> KV:
        """Return a copy without some names."""
        return KV((name, value) for name, value in self.items() if name not in names)

    def __str__(self) -> str:
        return str(self.sorted_pairs())


class Pair(NamedTuple):
    """A name and its value."""

    name: str
    value: str


class Pairs(list[Pair]):
    """Names and values in order."""

    def names(self) -> Strings:
        """Return the names."""
        return Strings(pair.name for pair in self)

    def values(self) -> Strings:
        """Return the values."""
        return Strings(pair.value for pair in self)

    def __str__(self) -> str:
        return ", ".join(f"{pair.name}={pair.value}" for pair in self)


class Struct:
    """A value with named fields, which are read from a mapping when they are used.

    Args:
        source: the mapping, with the keys of Alertmanager's webhook.
    """

    fields: ClassVar[Mapping[str, tuple[str, Callable[[Any], Any]]]]
    printed: ClassVar[Sequence[str]]  # the fields of its text

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self.values: dict[str, Any] = {}  # those that were used

    def get(self, name: str) -> Any:
        """Return a field."""
        if name not in self.values:
            key, convert = self.fields[name]
            self.values[name] = convert(self._source.get(key))
        return self.values[name]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _kv(value: object) -> KV:
    return KV(value) if isinstance(value, Mapping) else KV()


class Alert(Struct):
    """An alert."""

    fields: ClassVar = {
        "Status": ("status", _text),
        "Labels": ("labels", _kv),
        "Annotations": ("annotations", _kv),
        "StartsAt": ("startsAt", parse_time),
        "EndsAt": ("endsAt", parse_time),
        "GeneratorURL": ("generatorURL", _text),
        "Fingerprint": ("fingerprint", _text),
    }
    printed: ClassVar = tuple(fields)


class AlertList(list[Alert]):
    """Some of the alerts."""


class Alerts(AlertList):
    """All alerts of a notification."""

    def with_status(self, status: str) -> AlertList:
        """Return those with a status."""
        return AlertList(alert for alert in self if alert.get("Status") == status)


def _alerts(value: object) -> Alerts:
    return Alerts(map(Alert, value)) if isinstance(value, (list, tuple)) else Alerts()


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


class Data(Struct):
    """The data of a notification."""

    fields: ClassVar = {
        "Receiver": ("receiver", _text),
        "Status": ("status", _text),
        "Alerts": ("alerts", _alerts),
        "GroupLabels": ("groupLabels", _kv),
        "CommonLabels": ("commonLabels", _kv),
        "CommonAnnotations": ("commonAnnotations", _kv),
        "ExternalURL": ("externalURL", _text),
        "NotificationReason": ("notificationReason", _text),
        "RouteLabels": ("routeLabels", _kv),
        "GroupKey": ("groupKey", _text),
        "TruncatedAlerts": ("truncatedAlerts", _int),
        "Version": ("version", _text),
    }
    printed: ClassVar = tuple(fields)[:7]


class Signature(NamedTuple):
    """A function with the types of its parameters.

    Args:
        function: the function.
        types: the types of its parameters.
        more: the type of any number of further ones.
        result: the type of the result, if it is always the same.
    """

    function: Callable[..., Any]
    types: Sequence[str] = ()
    more: str | None = None
    result: type | None = None


# The types of the fields by their converters, and of the elements of lists and maps.
_CONVERTED: dict[Callable[[Any], Any], type] = {
    _text: str,
    _kv: KV,
    _alerts: Alerts,
    _int: int,
    parse_time: Time,
}
ELEMENTS: dict[type | None, type] = {
    Alerts: Alert,
    AlertList: Alert,
    Pairs: Pair,
    KV: str,
    Strings: str,
}
FIELDS: dict[type | None, dict[str, type]] = {
    **{
        struct: {name: _CONVERTED[convert] for name, (_, convert) in struct.fields.items()}
        for struct in (Data, Alert)
    },
    Pair: {"Name": str, "Value": str},
}

TYPES: dict[type, str] = {
    str: "string",
    bool: "bool",
    int: "int",
    float: "float64",
    type(None): "nil",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    Html: "template.HTML",
    Url: "template.URL",
    Strings: "[]string",
    KV: "template.KV",
    Pair: "template.Pair",
    Pairs: "template.Pairs",
    Alert: "template.Alert",
    Alerts: "template.Alerts",
    AlertList: "[]template.Alert",
    Data: "template.Data",
    Time: "time.Time",
    Duration: "time.Duration",
    Month: "time.Month",
    Weekday: "time.Weekday",
}
ACCEPTED: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "time.Time": frozenset({Time}),
    "[]string": frozenset({Strings}),
    "[]interface {}": frozenset({list}),
    "int": frozenset({int}),
    "time.Duration": frozenset({Duration, int}),
}
_NIL = {"[]string": Strings, "[]interface {}": list}

METHODS: dict[type, dict[str, Signature]] = {
    KV: {
        "SortedPairs": Signature(KV.sorted_pairs, result=Pairs),
        "Names": Signature(KV.names, result=Strings),
        "Values": Signature(KV.values_by_name, result=Strings),
        "Remove": Signature(KV.remove, ("[]string",), result=KV),
        "String": Signature(str, result=str),
    },
    Pairs: {
        "Names": Signature(Pairs.names, result=Strings),
        "Values": Signature(Pairs.values, result=Strings),
        "String": Signature(str, result=str),
    },
    Alerts: {
        "Firing": Signature(lambda alerts: alerts.with_status("firing"), result=AlertList),
        "Resolved": Signature(lambda alerts: alerts.with_status("resolved"), result=AlertList),
    },
    Duration: {
        "String": Signature(str, result=str),
        "Hours": Signature(lambda it: it / (3600 * SECOND)),
        "Minutes": Signature(lambda it: it / (60 * SECOND)),
        "Seconds": Signature(lambda it: it / SECOND),
        "Milliseconds": Signature(lambda it: int(it / 1_000_000)),
        "Microseconds": Signature(lambda it: int(it / 1_000)),
        "Nanoseconds": Signature(int),
        "Abs": Signature(lambda it: Duration(abs(it)), result=Duration),
        "Round": Signature(Duration.round, ("time.Duration",), result=Duration),
        "Truncate": Signature(Duration.truncate, ("time.Duration",), result=Duration),
    },
    Month: {"String": Signature(str, result=str)},
    Weekday: {"String": Signature(str, result=str)},
    Time: {
        "Format": Signature(Time.format, ("string",), result=str),
        "String": Signature(str, result=str),
        "Unix": Signature(Time.unix),
        "UnixMilli": Signature(lambda it: it.unix_nano() // 1_000_000),
        "UnixMicro": Signature(lambda it: it.unix_nano() // 1_000),
        "UnixNano": Signature(Time.unix_nano),
        "UTC": Signature(lambda it: it.in_zone(UTC), result=Time),
        "Local": Signature(lambda it: it.in_zone(None), result=Time),
        "Year": Signature(lambda it: it.moment.year),
        "Month": Signature(lambda it: Month(it.moment.month), result=Month),
        "Day": Signature(lambda it: it.moment.day),
        "Hour": Signature(lambda it: it.moment.hour),
        "Minute": Signature(lambda it: it.moment.minute),
        "Second": Signature(lambda it: it.moment.second),
        "Nanosecond": Signature(lambda it: it.nanoseconds),
        "YearDay": Signature(lambda it: it.moment.timetuple().tm_yday),
        "Weekday": Signature(lambda it: Weekday(it.moment.isoweekday() % 7), result=Weekday),
        "IsZero": Signature(lambda it: it.since_zero() == 0),
        "Before": Signature(lambda it, other: it.since_zero() < other.since_zero(), ("time.Time",)),
        "After": Signature(lambda it, other: it.since_zero() > other.since_zero(), ("time.Time",)),
        "Equal": Signature(lambda it, other: it.since_zero() == other.since_zero(), ("time.Time",)),
        "Add": Signature(Time.add, ("time.Duration",), result=Time),
        "AddDate": Signature(Time.add_date, ("int", "int", "int"), result=Time),
        "Sub": Signature(Time.since, ("time.Time",), result=Duration),
        "Round": Signature(Time.round, ("time.Duration",), result=Time),
        "Truncate": Signature(Time.truncate, ("time.Duration",), result=Time),
    },
}
_NO_METHODS: dict[str, Signature] = {}
_KV_METHODS = METHODS[KV]
_PAIR = {"Name": 0, "Value": 1}


def type_of(value: object) -> str:
    """Return the name of the type of a value in Go."""
    return TYPES.get(value.__class__, value.__class__.__name__)


def field(value: Any, name: str) -> Any:
    """Return a field or the result of a method without arguments, or raise a `GoError`."""
    kind = value.__class__
    if kind is KV:
        if name not in _KV_METHODS:
            return value.get(name, "")
    elif kind is Pair:
        if name in _PAIR:
            return value[_PAIR[name]]
    elif kind is Alert or kind is Data:
        if name in value.values:
            return value.values[name]
        if name in value.fields:
            return value.get(name)
    elif kind is dict or value is None:
        return value.get(name) if value else None
    return _method_result(value, name)


def _method_result(value: Any, name: str) -> Any:
    kind = value.__class__
    method = METHODS.get(kind, _NO_METHODS).get(name)
    if method is None:
        raise GoError(f"the type {type_of(value)} has no field {name}")
    return method.function(value, *checked(name, method, ()))


def call_method(value: Any, name: str, *arguments: Any) -> Any:
    """Return the result of a method, or raise a `GoError`."""
    method = METHODS.get(value.__class__, _NO_METHODS).get(name)
    if method is None:
        field(value, name)
        raise GoError(f"{name} is not a method, and cannot have arguments")
    return method.function(value, *checked(name, method, arguments))


def checking(name: str, signature: Signature) -> Callable[..., Any]:
    """Return a function that checks the types of its arguments, of which there is the right number."""
    function = signature.function
    if signature.more not in {None, "any"}:
        return lambda *arguments: function(*checked(name, signature, arguments))
    accepted = [(number, ACCEPTED[each]) for number, each in enumerate(signature.types) if each != "any"]
    if not accepted:
        return function

    def call(*arguments: Any) -> Any:
        for number, types in accepted:
            if arguments[number].__class__ not in types:
                return function(*checked(name, signature, arguments))
        return function(*arguments)

    return call


def checked(name: str, signature: Signature, arguments: Sequence[Any]) -> Sequence[Any]:
    """Return arguments that a function accepts, or raise a `GoError`."""
    count = len(signature.types)
    if len(arguments) < count or (len(arguments) > count and signature.more is None):
        raise GoError(wrong_number(name, signature, len(arguments)))
    if not arguments:
        return arguments
    types = [*signature.types, *(signature.more or "" for _ in arguments[count:])]
    return [_checked(name, *each) for each in zip(arguments, types, strict=True)]


def wrong_number(name: str, signature: Signature, given: int) -> str:
    """Return the message for a wrong number of arguments."""
    least = "at least " if signature.more is not None else ""
    return f"{name} needs {least}{len(signature.types)} arguments, got {given}"


def _checked(name: str, argument: Any, wanted: str) -> Any:
    if wanted == "any" or argument.__class__ in ACCEPTED[wanted]:
        return argument
    if argument is None and wanted in _NIL:
        return _NIL[wanted]()
    raise GoError(f"{name} needs a value of the type {wanted}, got {type_of(argument)}")
