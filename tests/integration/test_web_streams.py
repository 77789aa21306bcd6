"""Streams over real sockets: first bytes, replay, pings, and what is left when a client is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from orchestrator.client.event_stream import EventStreamParser, ServerSentEvent
from orchestrator.core.planning import FIRST_SEGMENT_FRAMES
from orchestrator.web.job_socket import MAX_CLIENT_MESSAGES
from tests.support.api import problem_in, submitted
from tests.support.http_server import Running, running
from tests.support.web_process import WebProcess


async def events_of(answer: httpx.Response) -> AsyncIterator[ServerSentEvent]:
    """Without progress, which is told as time goes by."""
    parser = EventStreamParser()
    async for piece in answer.aiter_raw():
        for event in parser.feed(piece):
            if event.kind != "progress":
                yield event


def client_of(server: Running) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=20)


async def test_a_stream_says_something_at_once_then_replays_then_is_live_and_ends_after_done() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            assert "no-cache" in answer.headers["cache-control"]
            events = events_of(answer)
            first = await anext(events)
            assert (first.kind, json.loads(first.data)) == (
                "state",
                {"job_id": job_id, "state": "queued", "attempt": 1},
            )
            await process.plan()
            assert json.loads((await anext(events)).data)["state"] == "running"
            assert await process.worker.work_once()
            assert (await anext(events)).kind == "segment"
            await process.work_until_idle()
            assert [event.kind async for event in events] == [*["segment"] * 5, "state", "done"]
        assert process.streams.now == 0


async def test_who_joins_late_or_again_is_told_each_event_once() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        await process.work_until_idle()
        async with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            whole = [event async for event in events_of(answer)]
        assert [event.kind for event in whole] == ["state", "state", *["segment"] * 6, "state", "done"]
        for seen in range(1, len(whole)):
            headers = {"Last-Event-ID": whole[seen - 1].last_event_id}
            async with http.stream("GET", f"/v1/jobs/{job_id}/events?last_event_id=0", headers=headers) as answer:
                assert [event async for event in events_of(answer)] == whole[seen:]
        url = f"/v1/jobs/{job_id}/events?last_event_id={whole[-1].last_event_id}"
        answer = await http.get(url)
        assert (answer.status_code, answer.content) == (204, b"")


async def test_segments_carry_boxes_only_where_they_are_asked_for() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        await process.work_until_idle()
        for query, has_boxes in (("", False), ("?boxes=1", True)):
            async with http.stream("GET", f"/v1/jobs/{job_id}/events{query}") as answer:
                segments = [json.loads(event.data) async for event in events_of(answer) if event.kind == "segment"]
            assert ["detections" in segment for segment in segments] == [has_boxes] * 6


async def test_a_quiet_stream_is_pinged_with_a_comment() -> None:
    async with running(WebProcess(most_wait_s=0.05)) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            async for line in answer.aiter_lines():
                if line == ": ping":
                    break


async def test_a_stream_of_an_unknown_job_or_a_forged_id_is_a_problem() -> None:
    async with running(WebProcess()) as server, client_of(server) as http:
        assert problem_in(await http.get("/v1/jobs/nothing/events"), status=404)["code"] == "job_not_found"
        job_id = await submitted(http)
        answer = await http.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
        assert problem_in(answer, status=422)["code"] == "event_id_invalid"


async def test_all_jobs_share_one_stream_that_begins_now() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        await submitted(http)
        async with http.stream("GET", "/v1/events") as answer:
            await process.streams.until(1)
            second = await submitted(http)
            await http.post(f"/v1/jobs/{second}/cancel")
            events = events_of(answer)
            told = [await anext(events) for _ in range(3)]
            assert [event.kind for event in told] == ["state", "state", "done"]
            assert {json.loads(event.data)["job_id"] for event in told} == {second}


async def test_a_client_that_leaves_takes_its_subscription_along_and_the_job_goes_on() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        await process.plan()
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await reader.readuntil(b"event: state")
            writer.transport.abort()
        await process.streams.until(0)
        assert (await http.get(f"/v1/jobs/{job_id}")).json()["state"] == "running"
        assert 'trireel_event_streams{kind="sse"} 0.0' in (await http.get("/metrics")).text


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("form", [False, True], ids=["raw", "form"])
async def test_a_client_that_leaves_during_an_upload_leaves_nothing(part: float, form: bool) -> None:
    process = WebProcess(max_upload_bytes=1_000_000)
    async with running(process) as server, client_of(server) as http:
        head = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' if form else b""
        body = head + b"VIDEO" + bytes(500_000)
        content_type = "multipart/form-data; boundary=b" if form else "application/octet-stream"
        _, writer = await asyncio.open_connection(*server.address)
        head_lines = [
            "POST /v1/videos HTTP/1.1",
            "Host: x",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
        ]
        writer.write("\r\n".join([*head_lines, "", ""]).encode() + body[: int(len(body) * part)])
        await writer.drain()
        if not form or part:
            await process.uploads.until(1)
        writer.transport.abort()
        await process.uploads.until(0)
        assert process.stores.files.contents == {}
        assert (await http.get("/v1/videos")).json()["items"] == []
        assert (await http.get("/healthz")).status_code == 200


async def test_an_upload_announced_over_the_limit_is_refused_before_its_body_is_sent() -> None:
    async with running(WebProcess()) as server:
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        status = await reader.readline()
        assert b"413" in status
        writer.close()
        await writer.wait_closed()


async def test_an_endless_chunked_upload_is_cut_at_the_limit() -> None:
    process = WebProcess()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield bytes(1000)

    async with running(process) as server, client_of(server) as http:
        answer = await http.post("/v1/videos", content=endless())
        assert problem_in(answer, status=413)["code"] == "upload_too_large"
        assert process.uploads.now == 0


async def test_followed_detections_go_on_until_the_job_has_ended() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        await process.plan()
        await process.worker.work_once()
        async with http.stream("GET", f"/v1/jobs/{job_id}/detections?format=ndjson&follow=1") as answer:
            lines = answer.aiter_lines()
            assert json.loads(await anext(lines))["is_complete"] is False
            early = range(FIRST_SEGMENT_FRAMES)
            assert [json.loads(await anext(lines))["frame_index"] for _ in early] == [*early]
            await process.work_until_idle()
            assert [json.loads(line)["frame_index"] async for line in lines] == [*range(FIRST_SEGMENT_FRAMES, 100)]
        assert process.streams.now == 0


async def test_a_reader_that_leaves_a_followed_result_closes_it() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with http.stream("GET", f"/v1/jobs/{job_id}/detections?format=ndjson&follow=1") as answer:
            await anext(answer.aiter_lines())
            await process.streams.until(1)
        await process.streams.until(0)


async def test_a_socket_tells_the_same_events_as_json() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with connect(f"ws{server.url[4:]}/v1/jobs/{job_id}/ws?boxes=1", proxy=None) as socket:
            state = {"job_id": job_id, "state": "queued", "attempt": 1}
            assert json.loads(await socket.recv()) == {"event": "state", "id": 1, "data": state}
            await socket.send("I am not listened to")
            await process.plan()
            assert json.loads(await socket.recv())["data"]["state"] == "running"
            await process.work_until_idle()
            told = [json.loads(text) async for text in socket]
            assert socket.close_code == 1000
        durable = [message for message in told if message["event"] != "progress"]
        assert [message["event"] for message in durable] == [*["segment"] * 6, "state", "done"]
        assert durable[0]["data"]["detections"][0]["class_name"] == "person"
        await process.streams.until(0)


CLOSES = {
    "unknown_job": ("/v1/jobs/nothing/ws", 4404, "job_not_found"),
    "bad_id": ("/v1/jobs/job_1/ws?last_event_id=x", 4422, "event_id_invalid"),
    "misspelt": ("/v1/jobs/job_1/ws?box=1", 4422, "box"),
    "all_told": ("/v1/jobs/job_1/ws?last_event_id=99", 1000, "over"),
}


@pytest.mark.parametrize(("path", "code", "reason"), CLOSES.values(), ids=CLOSES)
async def test_a_socket_that_cannot_tell_closes_with_a_reason(path: str, code: int, reason: str) -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        await submitted(http)
        await process.work_until_idle()
        async with connect(f"ws{server.url[4:]}{path}", proxy=None) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert (socket.close_code, reason in (socket.close_reason or "")) == (code, True)


async def test_a_socket_that_talks_without_end_is_closed() -> None:
    async with running(WebProcess()) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with connect(f"ws{server.url[4:]}/v1/jobs/{job_id}/ws", proxy=None) as socket:
            for _ in range(MAX_CLIENT_MESSAGES + 1):
                await socket.send("and another thing")
            assert json.loads(await socket.recv())["event"] == "state"
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1008


async def test_a_dropped_socket_takes_its_subscription_along() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        async with connect(f"ws{server.url[4:]}/v1/jobs/{job_id}/ws", proxy=None) as socket:
            await socket.recv()
            socket.transport.abort()
        await process.streams.until(0)
        assert 'trireel_event_streams{kind="ws"} 0.0' in (await http.get("/metrics")).text


async def test_an_answer_that_breaks_off_is_an_error_to_the_client_and_told_in_the_log() -> None:
    process = WebProcess()
    async with running(process) as server, client_of(server) as http:
        job_id = await submitted(http)
        await process.work_until_idle()
        [(run_id, stored)] = process.stores.archive.runs.items()
        process.stores.archive.runs[run_id] = replace(stored, class_ids=stored.class_ids + np.int16(100))
        with structlog.testing.capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
            await http.get(f"/v1/jobs/{job_id}/detections?format=ndjson")
        [entry] = [entry for entry in logs if entry["log_level"] == "error"]
        assert (entry["event"], entry["exc_info"] is not None) == ("answer broken off", True)
