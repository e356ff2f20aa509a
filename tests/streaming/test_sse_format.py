"""The wire format of server-sent events, in both directions; the rules are those of WHATWG HTML 9.2."""

import copy
import json
import pickle
import re

import pytest
from codomyrmex.streaming import (
    Event,
    EventType,
    SSEDecodeError,
    SSEDecoder,
    SSERecord,
    StreamingError,
    create_event,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

BOM = b"\xef\xbb\xbf"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
events = st.builds(Event, id=st.text(), type=st.sampled_from(EventType), data=json_values)
cuts = st.lists(st.integers(0, 1_000), max_size=6)
byte_streams = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\n",
            b"\n\n",
            b"\r",
            b"\r\n",
            BOM,
            b"\xef",
            b"\xbb",
            b"\xbf",
            b":",
            b": comment",
            b"data",
            b"data:",
            b"data: x",
            b"data:\ty",
            b"event: e",
            b"event",
            b"id",
            b"id:",
            b"id: 1",
            b"id: 2\0",
            b"retry: 10",
            b"retry: 1x",
            b"Data: no",
            b" ",
            b"\0",
            b"\xff",
            b"\xf0\x9f",
            b"\x98\x80",
            b"\x0b\x0c\x1c\x1d\x1e",
            "\x85\u2028\u2029".encode(),
        ]
    ),
    max_size=25,
).map(b"".join)


def split(data, places):
    places = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def one_by_one(data):
    return [data[i : i + 1] for i in range(len(data))]


def decode(chunks, decoder=None):
    decoder = decoder or SSEDecoder()
    return [record for chunk in chunks for record in decoder.feed(chunk)]


def outcome(chunks, max_event_size):
    """Return the records and the error that decoding ended with."""
    decoder, records = SSEDecoder(max_event_size), []
    try:
        for chunk in chunks:
            records += decoder.feed(chunk)
    except SSEDecodeError as error:
        return records + error.records, str(error)
    return records, None


def decode_naively(data):
    """Decode a whole stream as the standard describes it, regardless of speed."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    records, id_buffer = [], ""
    data_buffer, type_buffer, retry = "", "", None
    for line in re.split("\r\n|\n|\r", text)[:-1]:
        if line == "":
            if data_buffer:
                records.append(SSERecord(type_buffer or "message", data_buffer[:-1], id_buffer, retry))
            data_buffer, type_buffer, retry = "", "", None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                data_buffer += value + "\n"
            case "event":
                type_buffer = value
            case "id" if "\0" not in value:
                id_buffer = value
            case "retry" if re.fullmatch("[0-9]+", value):
                retry = int(value)
    return records


# Frames


def test_a_frame_is_an_id_an_event_and_a_data_line_and_a_blank_one():
    frame = Event("some-id", EventType.ERROR, {"a": [1, "\u00e9"]}).to_sse()
    assert frame == 'id: some-id\nevent: error\ndata: {"a":[1,"\u00e9"]}\n\n'


def test_a_heartbeat_has_no_id_so_that_it_moves_no_cursor():
    assert Event("some-id", EventType.HEARTBEAT).to_sse() == "event: heartbeat\ndata: null\n\n"


@pytest.mark.parametrize(
    ("event_id", "line"),
    [
        ("a\rb\nc\0d", "id: abcd"),
        ("\r\n\r\n", "id: "),
        ("a\n\ndata: forged", "id: adata: forged"),
        ("\ud800", "id: \ufffd"),
        ("\u00e9 \U0001f600", "id: \u00e9 \U0001f600"),
        ("", "id: "),
        (" a ", "id:  a "),
    ],
)
def test_an_id_cannot_break_out_of_its_line(event_id, line):
    assert Event(event_id).to_sse() == f"{line}\nevent: message\ndata: null\n\n"


def test_line_ends_in_the_data_are_escaped():
    assert Event("a", data="x\r\ny\nz\0").to_sse().count("\n") == 4
    assert "\r" not in Event("a", data="x\r\ny").to_sse()


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "byte by byte"])
@given(events)
@settings(max_examples=60, deadline=None)
def test_an_event_can_be_decoded_from_its_frame(cut, event):
    [record] = decode(cut(event.to_sse().encode()))
    assert record.event == event.type
    assert json.loads(record.data) == event.data
    heartbeat = event.type is EventType.HEARTBEAT
    assert record.id == ("" if heartbeat else "".join(event.id.replace("\0", "").splitlines()))
    assert record.retry is None


@given(st.lists(events, max_size=5), cuts)
@settings(max_examples=60, deadline=None)
def test_events_are_decoded_in_order_however_their_frames_are_split(several, places):
    records = decode(split("".join(e.to_sse() for e in several).encode(), places))
    assert [json.loads(r.data) for r in records] == [e.data for e in several]
    assert [r.event for r in records] == [e.type for e in several]


# The decoder


@given(byte_streams, cuts)
@settings(max_examples=200, deadline=None)
@example(b"data: 1\r\n\r\n", [8])
@example(b"\r\ndata: \xf0\x9f\x98\x80\r\r\n", [1, 10])
def test_any_stream_is_decoded_by_the_standard_however_it_is_split(data, places):
    expected = decode_naively(data)
    assert decode([data]) == expected
    assert decode(one_by_one(data)) == expected
    assert decode(split(data, places)) == expected


@given(st.binary(max_size=60), cuts)
@settings(max_examples=60, deadline=None)
def test_no_bytes_make_the_decoder_fail(data, places):
    data = b"data:" + data + b"\n\n"
    assert decode(split(data, places)) == decode_naively(data)


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: x\n\n", [("message", "x", "", None)]),
        (b"data: x\r\r", [("message", "x", "", None)]),
        (b"data: x\r\n\r\n", [("message", "x", "", None)]),
        (b"data: x\n\r", [("message", "x", "", None)]),
        (b"data: 1\r\n\ndata: 2\r\r\n", [("message", "1", "", None), ("message", "2", "", None)]),
        (BOM + b"data: x\n\n", [("message", "x", "", None)]),
        (BOM + BOM + b"data: x\ndata: y\n\n", [("message", "y", "", None)]),
        (b"data: x\n" + BOM + b"data: y\n\n", [("message", "x", "", None)]),
        (b"\n" + BOM + b"data: x\n\n", []),
        (b": hello\ndata: x\n: hello\n\n", [("message", "x", "", None)]),
        (b":\n\n:\n\n", []),
        (b"data:x\n\n", [("message", "x", "", None)]),
        (b"data:  x\n\n", [("message", " x", "", None)]),
        (b"data:\tx\n\n", [("message", "\tx", "", None)]),
        (b"data: x:y\n\n", [("message", "x:y", "", None)]),
        (b"data: 1\ndata: 2\ndata:\n\n", [("message", "1\n2\n", "", None)]),
        (b"data\n\n", [("message", "", "", None)]),
        (b"data:\n\n", [("message", "", "", None)]),
        (b"data\ndata\n\n", [("message", "\n", "", None)]),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [("add", "1", "", None), ("message", "2", "", None)]),
        (b"event: a\nevent: b\ndata: 1\n\n", [("b", "1", "", None)]),
        (b"event: a\nevent\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"event: lost\n\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"id: 7\ndata: 1\n\ndata: 2\n\n", [("message", "1", "7", None), ("message", "2", "7", None)]),
        (b"id: 7\n\ndata: 2\n\n", [("message", "2", "7", None)]),
        (b"id: 7\ndata: 1\nid\n\n", [("message", "1", "", None)]),
        (b"id: 7\nid:\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"id: 7\nid: 8\0\ndata: 1\n\n", [("message", "1", "7", None)]),
        (b"retry: 150\ndata: 1\n\n", [("message", "1", "", 150)]),
        (b"retry: 150\n\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry: 0150\ndata: 1\n\n", [("message", "1", "", 150)]),
        (b"retry: 00000000000000000000150\ndata: 1\n\n", [("message", "1", "", 150)]),
        (b"retry: 1.5\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry: -1\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry: +1\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry:  1\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry: 1_0\ndata: 1\n\n", [("message", "1", "", None)]),
        (b"retry:\ndata: 1\n\n", [("message", "1", "", None)]),
        ("retry: \u0661\ndata: 1\n\n".encode(), [("message", "1", "", None)]),
        ("retry: \u00b2\ndata: 1\n\n".encode(), [("message", "1", "", None)]),
        (b"Data: x\nDATA: x\n data: x\ndata : x\ndata\0: x\nother: x\n\n", []),
        (b"data: x\x0b\x0c\x1c\x1d\x1e\n\n", [("message", "x\x0b\x0c\x1c\x1d\x1e", "", None)]),
        ("data: \x85\u2028\u2029\n\n".encode(), [("message", "\x85\u2028\u2029", "", None)]),
        ("data: \u00e9\U0001f600\n\n".encode(), [("message", "\u00e9\U0001f600", "", None)]),
        (b"data: a\xffb\xf0\x9f\n\n", [("message", "a\ufffdb\ufffd", "", None)]),
        (b"data: a\0b\n\n", [("message", "a\0b", "", None)]),
        (b"data: x\n", []),
        (b"data: x", []),
        (b"data: x\n\ndata: y\n", [("message", "x", "", None)]),
        (b"\n\n\r\r\n\n", []),
        (b"", []),
    ],
)
def test_the_standard(cut, stream, expected):
    assert decode(cut(stream)) == expected


def test_a_record_has_names_for_its_fields():
    [record] = SSEDecoder().feed(b"id: 7\nevent: add\nretry: 5\ndata: x\n\n")
    assert (record.event, record.data, record.id, record.retry) == ("add", "x", "7", 5)


def test_an_id_alone_moves_the_cursor_without_an_event():
    decoder = SSEDecoder()
    assert decoder.feed(b"id: 7\n\n") == []
    assert decoder.last_event_id == "7"


def test_the_id_of_an_unfinished_event_does_not_move_the_cursor():
    decoder = SSEDecoder()
    decoder.feed(b"id: 7\ndata: 1\n\nid: 8\ndata: 2\n")
    assert decoder.last_event_id == "7"


def test_the_reconnection_time_is_known_as_soon_as_its_line_is_read():
    decoder = SSEDecoder()
    assert decoder.retry is None
    decoder.feed(b"retry: 250\nretry: soon\n")
    assert decoder.retry == 250


def test_a_reconnection_time_of_any_length_is_accepted():
    decoder = SSEDecoder()
    decoder.feed(b"retry: " + b"9" * 10_000 + b"\n")
    assert decoder.retry is None or decoder.retry > 10**12


def test_an_lf_is_only_part_of_a_cr_directly_before_it():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert [r.data for r in decoder.feed(b"\n")] == ["1"]


# The bound


@pytest.mark.parametrize("size", [0, -1])
def test_a_bound_that_no_event_can_keep_is_refused(size):
    with pytest.raises(ValueError, match=str(size)):
        SSEDecoder(max_event_size=size)


def test_the_bound_is_one_mebibyte_by_default():
    mebibyte = 1024 * 1024
    assert len(SSEDecoder().feed(b"data:" + b"x" * (mebibyte - 5) + b"\n\n")) == 1
    with pytest.raises(SSEDecodeError, match=str(mebibyte)):
        SSEDecoder().feed(b"data:" + b"x" * (mebibyte - 4))


def test_an_error_of_the_bound_is_a_value_error_and_one_of_the_package():
    assert issubclass(SSEDecodeError, ValueError)
    assert issubclass(SSEDecodeError, StreamingError)


@pytest.mark.parametrize(
    "stream",
    [
        b"data:" + b"x" * 20,
        b"data:" + b"x" * 20 + b"\n",
        b"data:" + b"x" * 20 + b"\n\n",
        b"data:x\n" * 4,
        b"id:" + b"1" * 20,
        b"event:aaaaa\nid:12345\ndata:x\n",
        b"unknown" * 4,
    ],
)
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "byte by byte"])
def test_the_lines_of_an_event_may_not_be_longer_than_the_bound_together(cut, stream):
    before = b"id: 7\ndata: 1\n\n"
    records, error = outcome(cut(before + stream), 20)
    assert [r.data for r in records] == ["1"]
    assert re.search("20.*'7'", str(error))


def test_a_decoder_fails_for_good_after_an_event_that_is_too_large():
    decoder = SSEDecoder(max_event_size=10)
    with pytest.raises(SSEDecodeError) as first:
        decoder.feed(b"data: 1\n\ndata: far too long\n\n")
    for chunk in (b"data: 2\n\n", b""):
        with pytest.raises(SSEDecodeError) as again:
            decoder.feed(chunk)
        assert str(again.value) == str(first.value)
        assert again.value.records == []


def test_many_events_together_may_be_longer_than_the_bound():
    assert len(SSEDecoder(max_event_size=10).feed(b"data: x\n\n" * 100)) == 100


@pytest.mark.parametrize("start", [b"", BOM, b"data: 1\n"], ids=["first", "behind a BOM", "inside an event"])
@pytest.mark.parametrize("size", [10_000, 1], ids=["giant", "tiny"])
@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "byte by byte"])
def test_a_comment_does_not_count(cut, size, start):
    data = start + b":" + b"x" * size + b"\ndata: 2\n\n"
    bound = len(b"data: 1data: 2") if b"data" in start else len(b"data: 2")
    [record] = decode(cut(data), SSEDecoder(max_event_size=bound))
    assert record.data.endswith("2")


def test_a_comment_between_the_lines_of_an_event_at_its_bound_does_not_count():
    assert decode(one_by_one(b"data:x\n:\n\n"), SSEDecoder(max_event_size=6)) == [("message", "x", "", None)]


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one], ids=["whole", "byte by byte"])
def test_a_bom_does_not_count(cut):
    assert len(decode(cut(BOM + b"data: 1\n\n"), SSEDecoder(max_event_size=7))) == 1


@given(byte_streams, cuts, st.integers(1, 30))
@settings(max_examples=150, deadline=None)
@example(b"data:x\n:\n\n", [], 6)
@example(BOM + b"data:x\n\n", [], 6)
@example(b": long comment\n", [], 5)
def test_the_bound_does_not_depend_on_how_the_stream_is_split(data, places, bound):
    data += b"\n"  # an error in an unfinished line may come at any of its bytes
    expected = outcome([data], bound)
    assert outcome(one_by_one(data), bound) == expected
    assert outcome(split(data, places), bound) == expected


@pytest.mark.parametrize("clone", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_an_error_of_the_bound_can_cross_a_process_boundary(clone):
    with pytest.raises(SSEDecodeError) as caught:
        SSEDecoder(max_event_size=10).feed(b"data: 1\n\ndata: far too long")
    again = clone(caught.value)
    assert (str(again), again.records) == (str(caught.value), caught.value.records)


def test_the_decoder_reads_what_the_encoder_writes():
    events = [create_event({"n": n}, topic="a") for n in range(3)]
    heartbeat = Event(type=EventType.HEARTBEAT)
    decoder = SSEDecoder()
    records = decoder.feed("".join(e.to_sse() for e in [*events, heartbeat]).encode())
    assert [r.id for r in records] == [*(e.id for e in events), events[-1].id]
    assert decoder.last_event_id == events[-1].id
