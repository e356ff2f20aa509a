"""Any payload becomes JSON; none makes `to_sse` or `to_dict` raise."""

import array
import collections
import dataclasses
import enum
import fractions
import functools
import json
import math
import numbers
import pathlib
import types
import uuid
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import ClassVar, NamedTuple

import pytest
import uuid_utils
from codomyrmex.streaming import Event, EventType
from hypothesis import given, settings
from hypothesis import strategies as st

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LONE = "\ud800"


def read_back(value):
    frame = Event(data=value).to_sse()
    return json.loads(frame.split("\n")[2].removeprefix("data: "))


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)
    HALF = 0.5


class Shelf:
    def __len__(self):
        return 1

    def __iter__(self):
        return iter(["a book"])

    def __contains__(self, item):
        return True


@numbers.Integral.register
class Dice:
    def __int__(self):
        return 4


class Order:
    """Has fields like a model of pydantic."""

    model_fields: ClassVar = {"number": None}
    number = 7


class Level(enum.IntEnum):
    HIGH = 3


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass
class Node:
    parent: object = None
    children: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclasses.dataclass(slots=True)
class Incomplete:
    x: int = dataclasses.field(init=False)


class Named(collections.namedtuple("Named", "a b")):  # noqa: PYI024 - the untyped kind is the subject
    __slots__ = ()


class RaisingRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


class RecursiveRepr:
    def __repr__(self):
        return repr(self)


class SurrogateRepr:
    def __repr__(self):
        return f"<{LONE}>"


class LongRepr:
    def __repr__(self):
        return "x" * 1_000_000


class UnfriendlyText(str):
    __slots__ = ()

    def __getitem__(self, index):
        raise RuntimeError

    def encode(self, *args):
        raise RuntimeError


class UnfriendlyTextRepr:
    def __repr__(self):
        return UnfriendlyText("x")


class RaisingClass:
    @property
    def __class__(self):
        raise RuntimeError


class RaisingItems(dict):
    def items(self):
        raise RuntimeError

    def __iter__(self):
        raise RuntimeError


class RaisingMapping(collections.UserDict):
    def __iter__(self):
        raise RuntimeError


class RaisingSequence(collections.abc.Sequence):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise RuntimeError


class RaisingInt(int):
    def __int__(self):
        raise RuntimeError

    __index__ = __float__ = __str__ = __repr__ = __int__


class RaisingZone(tzinfo):
    def utcoffset(self, moment):
        raise RuntimeError

    tzname = dst = utcoffset


class RaisingHash:
    def __hash__(self):
        raise RuntimeError


class Shout(str):
    __slots__ = ()


def nested(make, depth):
    return functools.reduce(lambda inner, _: make(inner), range(depth), 0)


def list_in_itself():
    endless = []
    endless.append(endless)
    return endless


def dict_in_itself():
    endless = {}
    endless["self"] = endless
    return endless


def parent_and_child():
    root = Node()
    root.children.append(Node(root))
    return root


HOSTILE = {
    "list in itself": list_in_itself(),
    "dict in itself": dict_in_itself(),
    "parent and child": parent_and_child(),
    "lists, 5000 deep": nested(lambda inner: [inner], 5_000),
    "dicts, 5000 deep": nested(lambda inner: {"k": inner}, 5_000),
    "dataclasses, 5000 deep": nested(Node, 5_000),
    "proxies, 5000 deep": nested(lambda inner: types.MappingProxyType({"k": inner}), 5_000),
    "lists, 300 deep": nested(lambda inner: [inner], 300),
    "raising repr": RaisingRepr(),
    "raising repr as key": {RaisingRepr(): 1},
    "recursive repr": RecursiveRepr(),
    "surrogate repr": SurrogateRepr(),
    "long repr": LongRepr(),
    "repr of an unfriendly text": UnfriendlyTextRepr(),
    "unfriendly text": UnfriendlyText("x"),
    "unfriendly text, lone surrogate": UnfriendlyText(LONE),
    "raising class": RaisingClass(),
    "raising items": RaisingItems(a=1),
    "raising mapping": RaisingMapping(a=1),
    "raising sequence": RaisingSequence(),
    "raising int": RaisingInt(3),
    "raising zone": datetime(2026, 1, 1, tzinfo=RaisingZone()),
    "incomplete dataclass": Incomplete(),
    "surrogate": LONE,
    "surrogate as key": {LONE: LONE},
    "surrogates deep": [{"a": [{LONE: {LONE}}]}],
    "weird keys": {
        None: 1,
        True: 2,
        2: 3,
        1.5: 4,
        b"k": 5,
        (1, 2): 6,
        frozenset({1}): 7,
        Point(1, 2): 8,
        Colour.PAIR: 9,
        NOON: 10,
        uuid.UUID(int=1): 11,
        uuid_utils.UUID(int=1): 12,
        Decimal(1): 13,
        math.nan: 14,
        object: 15,
    },
    "nan": math.nan,
    "infinite": [math.inf, -math.inf],
    "huge int": 10**400,
    "int beyond what Python writes": 10**5_000,
    "such an int as key": {10**5_000: 1},
    "complex": 1j,
    "sets": {frozenset({1}), frozenset({"a"})},
    "bytes": [b"\xff", bytearray(b"\0"), memoryview(b"ab")],
    "bytes, not contiguous": memoryview(b"abcd")[::2],
    "array": array.array("d", [math.nan]),
    "enums": [Colour.RED, Colour.PAIR, Colour.HALF, Level.HIGH, Right.READ | Right.WRITE, Colour],
    "uuids": [uuid.UUID(int=1), uuid_utils.UUID(int=1)],
    "decimals": [Decimal("NaN"), Decimal("1E+999"), Decimal("-0")],
    "times": [date.min, datetime.max.replace(tzinfo=UTC), time.max, timedelta.max, timedelta.min],
    "collections": [collections.deque([1]), collections.ChainMap({"a": 1}), collections.Counter("ab")],
    "user collections": [collections.UserDict(a=1), collections.UserList([1]), collections.UserString("ab")],
    "views": [{"a": 1}.keys(), {"a": 1}.values(), {"a": 1}.items(), range(3)],
    "proxy": types.MappingProxyType({"a": 1}),
    "exceptions": [ValueError("x"), ExceptionGroup("g", [KeyError(LONE)])],
    "functions": [print, read_back, (n for n in ()), object(), ..., NotImplemented, math],
    "path": pathlib.PurePosixPath("/tmp"),
    "event": Event(data=LONE),
}


class Payload(NamedTuple):
    """A value with a description, for reports that do not touch the value."""

    value: object
    description: str

    def __repr__(self):
        return self.description


def simple(strategy):
    return strategy.map(lambda value: Payload(value, repr(value)))


def sequence(kind):
    return lambda items: Payload(kind(i.value for i in items), f"{kind.__name__}({items})")


def mapping(items):
    return Payload({k: v.value for k, v in items.items()}, repr(items))


hostile_payloads = st.recursive(
    st.sampled_from(sorted(HOSTILE)).map(lambda name: Payload(HOSTILE[name], f"<{name}>"))
    | simple(st.floats() | st.integers() | st.binary(max_size=6) | st.decimals())
    | simple(st.text(st.characters(), max_size=6)),
    lambda children: (
        st.lists(children, max_size=3).map(sequence(list))
        | st.lists(children, max_size=3).map(sequence(tuple))
        | st.lists(children, max_size=3).map(sequence(collections.deque))
        | st.dictionaries(st.text(st.characters(), max_size=3) | st.integers(), children, max_size=3).map(
            mapping
        )
    ),
    max_leaves=8,
)


def check_frame(event):
    frame = event.to_sse()
    assert frame.endswith("\n\n")
    assert not {"\r", "\0"} & set(frame)
    lines = frame[:-2].split("\n")
    if event.type is not EventType.HEARTBEAT:
        assert lines.pop(0).startswith("id: ")
    kind, data = lines
    assert kind == f"event: {event.type}"
    assert not {"\x85", "\u2028", "\u2029"} & set(data)
    frame.encode("utf-8")
    json.loads(data.removeprefix("data: "), parse_int=str)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_payload_makes_the_frame_fail(name):
    check_frame(Event(data=HOSTILE[name]))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_payload_makes_the_dict_fail(name):
    value = HOSTILE[name]
    d = Event(data=value, metadata={"value": value}).to_dict()
    json.dumps(d, allow_nan=False, ensure_ascii=False).encode("utf-8")
    Event.from_dict(d)


@given(st.text(st.characters()), st.sampled_from(EventType), hostile_payloads)
@settings(max_examples=100, deadline=None)
def test_a_frame_is_always_three_lines_and_a_blank_one_or_two_for_a_heartbeat(event_id, event_type, payload):
    check_frame(Event(event_id, event_type, payload.value))


@given(hostile_payloads)
@settings(max_examples=60, deadline=None)
def test_builtin_values_stay_as_they_are(payload):
    once = Event(data=payload.value, metadata={"value": payload.value}).to_dict()
    assert Event.from_dict(once).to_dict() == once


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (0, "0"), (False, "false"), ("", '""'), ([], "[]"), ({}, "{}"), (0.0, "0.0")],
)
def test_none_is_null_and_falsy_data_is_kept(value, text):
    assert Event("a", data=value).to_sse() == f"id: a\nevent: message\ndata: {text}\n\n"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (NOON, "2026-03-01T12:00:00Z"),
        (date(2026, 3, 1), "2026-03-01"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (uuid_utils.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        ({7}, [7]),
        (frozenset({7}), [7]),
        (b"\x00\xff", "AP8="),
        ((1, 2), [1, 2]),
        (Named(1, 2), [1, 2]),
        (Point(1, 2), {"x": 1, "y": 2}),
        (Colour.RED, "red"),
        (Colour.PAIR, [1, 2]),
        (Colour.HALF, 0.5),
        (Level.HIGH, 3),
        (Shout("hey"), "hey"),
        (collections.deque([1, 2]), [1, 2]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserList([1]), [1]),
        ({"a": 1}.values(), [1]),
        (Shelf(), ["a book"]),
        (pathlib.PurePosixPath("/tmp"), "/tmp"),
        (fractions.Fraction(1, 2), 0.5),
        (Dice(), 4),
        (Order(), {"number": 7}),
        (collections.UserString("hello"), "hello"),
        (range(3), [0, 1, 2]),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (2**64, 2**64),
        (-(10**100), -(10**100)),
        (ValueError("x"), "ValueError('x')"),
        (1j, "1j"),
        ({1: "a", None: "b", 1.5: "c"}, {"1": "a", "null": "b", "1.5": "c"}),
        ({True: "a", NOON: "b"}, {"true": "a", "2026-03-01T12:00:00Z": "b"}),
        (LONE, "\ufffd"),
        ({LONE: f"a{LONE}b"}, {"\ufffd": "a\ufffdb"}),
        ("\u00e9\U0001f600", "\u00e9\U0001f600"),
        ("a\r\n\0b", "a\r\n\0b"),
    ],
)
def test_types_that_json_lacks_become_the_nearest_json_type(value, read):
    assert read_back(value) == read
    assert Event(data=value).to_dict()["data"] == read


@pytest.mark.parametrize("value", [object(), print, types.SimpleNamespace(a=1), Colour])
def test_any_other_object_is_written_as_its_repr(value):
    assert read_back(value) == repr(value)


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_separators_that_clients_treat_as_line_ends_are_escaped(separator):
    frame = Event(data={separator: separator}).to_sse()
    assert separator not in frame
    assert read_back({separator: separator}) == {separator: separator}


def test_the_repr_of_an_object_is_cut_before_it_floods_the_stream():
    assert len(Event(data=LongRepr()).to_sse()) < 20_000


def test_a_broken_repr_is_described():
    assert "RaisingRepr" in read_back(RaisingRepr())


class Visited(list):
    visits = 0

    def __iter__(self):
        Visited.visits += 1
        if Visited.visits > 60_000:
            pytest.fail("the same few objects are written over and over")
        return super().__iter__()

    def __repr__(self):
        return f"<{len(self)} visited>"


def test_a_cycle_with_two_ways_round_ends_as_soon_as_one_with_one():
    Visited.visits = 0
    endless = Visited()
    endless += [endless, endless]
    check_frame(Event(data=endless))


def test_a_tree_whose_nodes_know_their_parent_is_written_in_reasonable_time():
    Visited.visits = 0
    root = Node(children=Visited())
    root.children += [Node(root, Visited()) for _ in range(10)]
    check_frame(Event(data=root))


def test_objects_that_all_refer_to_each_other_are_written_in_reasonable_time():
    Visited.visits = 0
    friends = [Visited() for _ in range(12)]
    for friend in friends:
        friend.extend(friends)
    check_frame(Event(data=friends))


@pytest.mark.parametrize(
    ("first", "second"),
    [((1, 2), (3, 4)), (frozenset({1}), frozenset({2})), (Point(1, 2), Point(3, 4))],
    ids=["tuples", "frozensets", "dataclasses"],
)
def test_keys_that_differ_are_written_apart(first, second):
    assert sorted(read_back({first: "a", second: "b"}).values()) == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        NOON.replace(tzinfo=None),
        NOON.timetz(),
        timedelta(days=1),
        Decimal("1.10"),
        b"\xff",
        {7},
        Point(1, 2),
        Colour.PAIR,
        uuid.UUID(int=1),
        uuid_utils.UUID(int=1),
        math.nan,
        10**100,
        {math.nan: 1},
        {NOON: 1},
        {b"k": 1},
        {None: 1},
        {True: 1},
        {Point(1, 2): 1},
        {(1, 2): 1},
        Event("a", data=1, timestamp=NOON),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_value_is_encoded_the_same_whatever_is_beside_it(value):
    assert read_back([value, LONE])[0] == read_back([value])[0]


def test_a_value_deep_inside_is_kept_where_it_is_not_deeper_than_people_nest():
    assert read_back(nested(lambda inner: [inner], 50)) == nested(lambda inner: [inner], 50)


def test_a_payload_of_any_depth_is_encoded():
    for depth in range(50, 1_100, 7):
        event = Event(data=nested(lambda inner: [inner], depth))
        event.to_sse()
        event.to_dict()


def test_the_payload_is_not_changed_by_being_written():
    payload = {"a": [LONE, {1}], "b": {None: 1}}
    Event(data=payload).to_sse()
    Event(data=payload).to_dict()
    assert payload == {"a": [LONE, {1}], "b": {None: 1}}


def test_an_interrupt_is_not_swallowed():
    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Event(data=Interrupted()).to_sse()
