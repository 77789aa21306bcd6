"""The parser of server-sent events, on the cases of the web-platform-tests' `eventsource` suite."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.event_stream import EventStreamParser, ServerSentEvent

LONG = "x" * 2048


def parse(stream: str | bytes, *, last_event_id: str = "") -> list[ServerSentEvent]:
    parser = EventStreamParser(last_event_id=last_event_id)
    return list(parser.feed(stream.encode() if isinstance(stream, str) else stream))


def data_of(stream: str | bytes) -> list[str]:
    return [event.data for event in parse(stream)]


DATA_VECTORS = {
    "lines_and_data": ("data:msg\ndata:msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\ndata:msg\n\n", ["msg\nmsg", "msg"]),
    "byte_order_mark_once": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", ["1", "3"]),
    "two_byte_order_marks": ("\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", ["2", "3"]),
    "comments": (
        f"data:1\r:\0\n:\r\ndata:2\n:{LONG}\rdata:3\n:data:fail\r:{LONG}\ndata:4\n\n",
        ["1\n2\n3\n4"],
    ),
    "unfinished_event": ("retry:1000\ndata:test1\n\nid:test\ndata:test2", ["test1"]),
    "data_fields": ("data:\n\ndata\ndata\n\ndata:test\n\n", ["", "\n", "test"]),
    "field_names": (
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
        ["\0\n 2\n1\n3\n\n4"],
    ),
    "leading_space": ("data:\ttest\rdata: \ndata:test\n\n", ["\ttest\n\ntest"]),
    "newlines": ("data:test\r\ndata\ndata:test\r\n\r", ["test\n\ntest"]),
    "null_character": ("data:\0\n\n", ["\0"]),
    "unknown_fields": (
        "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        ["test\n\ntest"],
    ),
    "utf_8": ("data:ok…\n\n", ["ok…"]),
    "ping_comment": (": ping\n\n: ping\n\n", []),
    "event_without_data": ("event: done\nid: 3\n\ndata: x\n\n", ["x"]),
}


@pytest.mark.parametrize("name", DATA_VECTORS)
def test_data_is_what_the_specification_says(name: str) -> None:
    stream, expected = DATA_VECTORS[name]
    assert data_of(stream) == expected


@pytest.mark.parametrize("name", DATA_VECTORS)
def test_cutting_a_stream_into_single_bytes_changes_nothing(name: str) -> None:
    stream, expected = DATA_VECTORS[name]
    parser = EventStreamParser()
    assert [event.data for byte in stream.encode() for event in parser.feed(bytes([byte]))] == expected


@given(
    text=st.text(alphabet="data:ievnt \r\n\0\ufeff…1", max_size=80),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_events_do_not_depend_on_where_the_chunks_are_cut(text: str, cuts: list[int]) -> None:
    stream = text.encode()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parser = EventStreamParser()
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert [event for piece in pieces for event in parser.feed(piece)] == parse(stream)


def test_bytes_that_are_no_utf_8_are_replaced() -> None:
    assert data_of(b"data:a\xffb\n\n") == ["a\ufffdb"]


def test_an_event_name_holds_for_one_event() -> None:
    assert [event.kind for event in parse("event:test\ndata:x\n\ndata:x\n\n")] == ["test", "message"]


def test_an_empty_event_name_is_a_message() -> None:
    assert [event.kind for event in parse("event: \ndata:data\n\n")] == ["message"]


def test_a_name_without_data_is_forgotten() -> None:
    assert [event.kind for event in parse("event:test\n\ndata:x\n\n")] == ["message"]


ID_VECTORS = {
    "persists": ("id: 1\ndata: 1\n\ndata:2\n\n", ["1", "1"]),
    "changes_and_persists": ("id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n", ["1", "2", "2"]),
    "empty_id_resets": ("id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n", ["1", "", ""]),
    "field_without_colon_resets": ("id: 1\ndata: 1\n\nid\ndata:2\n\n", ["1", ""]),
    "null_is_ignored": ("id: 1\ndata: 1\n\nid:\0\0\ndata:2\n\n", ["1", "1"]),
    "any_text": ("id: …\ndata:hello\n\n", ["…"]),
}


@pytest.mark.parametrize("name", ID_VECTORS)
def test_the_last_id_is_what_the_specification_says(name: str) -> None:
    stream, expected = ID_VECTORS[name]
    assert [event.last_event_id for event in parse(stream)] == expected


def test_the_id_of_an_unfinished_event_does_not_count() -> None:
    parser = EventStreamParser()
    list(parser.feed(b"id: 1\ndata: x\n\nid: 2\ndata: y\n"))
    assert parser.last_event_id == "1"


def test_an_id_without_data_counts() -> None:
    parser = EventStreamParser()
    assert list(parser.feed(b"id: 7\n\n")) == []
    assert parser.last_event_id == "7"


def test_a_new_connection_goes_on_with_the_last_id() -> None:
    assert parse("data: x\n\n", last_event_id="41") == [ServerSentEvent("message", "x", "41")]


@pytest.mark.parametrize(
    ("stream", "retry_ms"),
    [
        ("retry:3000\n", 3000),
        ("retry:03000\n", 3000),
        ("retry:2000\nretry:1000x\n", 2000),
        ("retry\n", None),
        ("retry:-1\n", None),
        ("retry:1.5\n", None),
        ("retry:٣\n", None),
    ],
)
def test_retry_takes_ascii_digits_only(stream: str, retry_ms: int | None) -> None:
    parser = EventStreamParser()
    list(parser.feed(stream.encode()))
    assert parser.retry_ms == retry_ms
