"""What a follower remembers between connections, driven without any."""

from __future__ import annotations

import pytest

from orchestrator.client.job_stream import LONGEST_RETRY_S, JobStream
from orchestrator.client_errors import AnswerInvalidError, ApiError, ConnectionLostError

STATE = b'id: 7\nevent: state\ndata: {"job_id": "job_1", "state": "running"}\n\n'
PROGRESS = (
    b'event: progress\ndata: {"job_id": "job_1", "stage": "inferring", "percent": 50.0, "frames_done": 1,'
    b' "frames_total": 2, "fps": null, "realtime_factor": null, "eta_s": null}\n\n'
)
DONE = (
    b'id: 9\nevent: done\ndata: {"job_id": "job_1", "state": "succeeded", "error": null, "frames_done": 2,'
    b' "frames_total": 2}\n\n'
)
LOST = ConnectionLostError("the connection broke")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def connected(clock: Clock, *, last_event_id: int | None = None) -> JobStream:
    stream = JobStream(last_event_id=last_event_id, max_outage_s=60, now=clock)
    stream.opened(200, "text/event-stream")
    return stream


def test_the_first_request_asks_for_everything(clock: Clock) -> None:
    assert "Last-Event-ID" not in JobStream(last_event_id=None, max_outage_s=60, now=clock).request_headers()


def test_a_follower_may_begin_after_an_id(clock: Clock) -> None:
    stream = JobStream(last_event_id=41, max_outage_s=60, now=clock)
    assert stream.request_headers()["Last-Event-ID"] == "41"


def test_the_next_request_goes_on_after_the_last_whole_event(clock: Clock) -> None:
    stream = connected(clock)
    assert [event.id for event in stream.feed(STATE + DONE[:-1])] == [7]
    stream.lost(LOST)
    assert stream.request_headers()["Last-Event-ID"] == "7"


def test_half_an_event_is_forgotten_with_its_connection(clock: Clock) -> None:
    stream = connected(clock)
    assert list(stream.feed(STATE[:-1])) == []
    stream.lost(LOST)
    stream.opened(200, "text/event-stream")
    assert [event.kind for event in stream.feed(b"\n" + PROGRESS)] == ["progress"]


def test_progress_has_no_id_of_its_own(clock: Clock) -> None:
    assert [event.id for event in connected(clock).feed(STATE + PROGRESS)] == [7, None]


def test_done_is_the_last_event(clock: Clock) -> None:
    stream = connected(clock)
    assert [event.kind for event in stream.feed(DONE + STATE)] == ["done"]
    assert stream.is_over


def test_no_content_means_that_there_is_nothing_more(clock: Clock) -> None:
    stream = JobStream(last_event_id=9, max_outage_s=60, now=clock)
    stream.opened(204, "")
    assert stream.is_over


def test_something_else_than_events_is_refused(clock: Clock) -> None:
    stream = JobStream(last_event_id=None, max_outage_s=60, now=clock)
    with pytest.raises(AnswerInvalidError, match="text/html"):
        stream.opened(200, "text/html; charset=utf-8")


def test_a_type_with_parameters_is_an_event_stream(clock: Clock) -> None:
    JobStream(last_event_id=None, max_outage_s=60, now=clock).opened(200, "Text/Event-Stream; charset=utf-8")


def test_kinds_of_a_newer_server_are_left_out(clock: Clock) -> None:
    stream = connected(clock)
    assert list(stream.feed(b"id: 8\nevent: weather\ndata: {}\n\n")) == []
    stream.lost(LOST)
    assert stream.request_headers()["Last-Event-ID"] == "8"


@pytest.mark.parametrize("data", [b"nonsense", b"{}", b'{"job_id": 1, "state": "running"}'])
def test_an_unreadable_event_is_an_error(clock: Clock, data: bytes) -> None:
    with pytest.raises(AnswerInvalidError, match="state"):
        list(connected(clock).feed(b"id: 1\nevent: state\ndata: " + data + b"\n\n"))


def test_waits_grow_to_a_limit_and_start_again_with_the_first_byte(clock: Clock) -> None:
    stream = connected(clock)
    waits_s = [stream.lost(LOST) for _ in range(6)]
    assert waits_s == [1, 2, 4, 8, LONGEST_RETRY_S, LONGEST_RETRY_S]
    list(stream.feed(b": ping\n\n"))
    assert stream.lost(LOST) == 1


def test_the_server_sets_the_first_wait(clock: Clock) -> None:
    stream = connected(clock)
    list(stream.feed(b"retry: 20\n\n"))
    assert [stream.lost(LOST), stream.lost(LOST)] == [0.02, 0.04]


def test_an_ended_answer_is_taken_up_again(clock: Clock) -> None:
    assert connected(clock).lost(None) == 1


def test_without_a_first_connection_there_is_no_second_try(clock: Clock) -> None:
    with pytest.raises(ConnectionLostError):
        JobStream(last_event_id=None, max_outage_s=60, now=clock).lost(LOST)


def test_an_outage_ends_the_patience(clock: Clock) -> None:
    stream = connected(clock)
    clock.now_s += 60
    stream.lost(LOST)
    clock.now_s += 1
    with pytest.raises(ConnectionLostError):
        stream.lost(LOST)


def test_a_refusal_ends_the_following(clock: Clock) -> None:
    with pytest.raises(ApiError) as raised:
        connected(clock).lost(ApiError("there is no job", code="job_not_found", status=404))
    assert raised.value.code == "job_not_found"


def test_a_server_that_is_starting_is_waited_for(clock: Clock) -> None:
    assert connected(clock).lost(ApiError("starting", code="not_ready", status=503, retryable=True)) == 1
