"""Server-sent events: their bytes, read back by the client's own parser, and where a stream resumes."""

from __future__ import annotations

import pytest

from orchestrator.client.event_stream import EventStreamParser
from orchestrator.errors import EventIdInvalidError
from orchestrator.following import StreamEvent
from orchestrator.web.sse import OPENING, PING, encode_event, last_event_id_of


def test_events_are_read_back_as_they_were_told() -> None:
    parser = EventStreamParser()
    told = [
        StreamEvent(kind="state", id=7, body={"state": "running", "text": 'line\nbreak\r\u2028 and "quotes"'}),
        StreamEvent(kind="progress", id=None, body={"percent": 12.5}),
    ]
    stream = OPENING + encode_event(told[0]) + PING + encode_event(told[1])
    read = list(parser.feed(stream))
    assert [event.kind for event in read] == ["state", "progress"]
    assert "line\\nbreak\\r" in read[0].data
    assert [event.last_event_id for event in read] == ["7", "7"]


def test_a_ping_is_a_comment_without_data() -> None:
    assert PING.startswith(b":")
    assert b"data" not in PING


@pytest.mark.parametrize(
    ("header", "query", "last_id"),
    [
        (None, None, None),
        ("", "", None),
        ("5", None, 5),
        (None, "6", 6),
        ("5", "6", 5),
        (" 7 ", None, 7),
        ("0", None, 0),
    ],
)
def test_a_stream_resumes_after_the_header_or_else_the_query(
    header: str | None, query: str | None, last_id: int | None
) -> None:
    assert last_event_id_of(header, query) == last_id


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "٣", "1e3", str(2**63), "9" * 5000, "1\x00"])
def test_an_id_that_no_stream_told_is_refused(text: str) -> None:
    with pytest.raises(EventIdInvalidError):
        last_event_id_of(text, None)
