"""Followers of jobs' event streams, each a thread, that connect again as often as it takes and keep what they hear."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from threading import Condition, Event, Thread
from typing import Final

import httpx

from orchestrator.client.event_stream import EventStreamParser
from tests.faults.evidence import Connection, FollowedStream, ToldEvent
from tests.faults.recorded_http import ErrorLog, recorded_http

RECONNECT_S: Final = 0.1
# Pings come every 15 s.
SILENCE_S: Final = 40.0
NO_CONTENT: Final = 204


@dataclass(slots=True)
class Heard:
    """What all followers of a scenario have heard so far, and a way to wait for more."""

    by_job: dict[str, list[ToldEvent]] = field(default_factory=dict)
    _changed: Condition = field(default_factory=Condition)

    def note(self, job_id: str, event: ToldEvent) -> None:
        with self._changed:
            self.by_job.setdefault(job_id, []).append(event)
            self._changed.notify_all()

    def wait_until(self, is_so: Callable[[], bool], *, timeout_s: float) -> bool:
        """Looks at every event, and once a second; whether it became so."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while not is_so():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(min(left_s, 1.0))
        return True

    def frames_committed(self) -> int:
        """Of all jobs that are followed, by their newest segment events."""
        return sum(self._committed(events) for events in self.by_job.values())

    def has_ended(self, job_id: str) -> bool:
        events = self.by_job.get(job_id, [])
        return bool(events) and events[-1].kind == "done"

    def states(self, job_id: str) -> list[str]:
        return [event.body["state"] for event in self.by_job.get(job_id, []) if event.kind == "state"]

    @staticmethod
    def _committed(events: list[ToldEvent]) -> int:
        return max((event.body["frames_done"] for event in events if event.kind == "segment"), default=0)


class Follower:
    """Follows one job until its end. cuts: breaks its connection at random after some events, as often as it says."""

    def __init__(self, url: str, job_id: str, heard: Heard, errors: ErrorLog, *, cuts: Random | None = None) -> None:
        self.job_id = job_id
        self.cuts_made = 0
        self._url = url
        self._heard = heard
        self._errors = errors
        self._cuts = cuts
        self._connections: list[Connection] = []
        self._last_id = 0
        self._is_over = False
        self._stop = Event()
        self._thread = Thread(target=self._follow, name=f"follower of {job_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up soon; the server is to be gone or to say something for it."""
        self._stop.set()

    def join(self, *, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    @property
    def stream(self) -> FollowedStream:
        return FollowedStream(job_id=self.job_id, connections=tuple(self._connections))

    def _follow(self) -> None:
        with recorded_http(self._url, self._errors) as http:
            while not self._is_over and not self._stop.is_set():
                try:
                    self._connect(http)
                except httpx.TransportError:
                    # The server is away, or went away in the middle; it is asked for the rest when it is back.
                    self._stop.wait(RECONNECT_S)

    def _connect(self, http: httpx.Client) -> None:
        headers = {"Last-Event-ID": str(self._last_id)} if self._last_id else {}
        events: list[ToldEvent] = []
        after_id = self._last_id
        path = f"/v1/jobs/{self.job_id}/events"
        with http.stream("GET", path, headers=headers, timeout=SILENCE_S) as answer:
            if answer.status_code in (404, NO_CONTENT):
                self._is_over = True
                return
            if answer.status_code != 200:
                self._stop.wait(RECONNECT_S)
                return
            try:
                for event in self._told(answer):
                    events.append(event)
                    self._note(event)
                    if self._is_over or self._is_cut():
                        return
            finally:
                self._connections.append(Connection(after_id=after_id, events=tuple(events)))

    def _told(self, answer: httpx.Response) -> Iterator[ToldEvent]:
        parser = EventStreamParser(last_event_id=str(self._last_id or ""))
        for piece in answer.iter_raw():
            for event in parser.feed(piece):
                is_durable = event.kind != "progress"
                yield ToldEvent(
                    kind=event.kind,
                    id=int(event.last_event_id) if is_durable else None,
                    body=json.loads(event.data),
                    at_s=time.monotonic(),
                )

    def _note(self, event: ToldEvent) -> None:
        self._last_id = event.id or self._last_id
        self._is_over = event.kind == "done"
        self._heard.note(self.job_id, event)

    def _is_cut(self) -> bool:
        """At one event in four, where connections are to be cut at all."""
        if self._cuts is None or self._cuts.random() > 0.25:
            return False
        self.cuts_made += 1
        return True
