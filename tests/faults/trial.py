"""One scenario on a cluster: jobs are submitted and followed, faults strike, and the checker has the last word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Any, Final
from uuid import UUID

import httpx

from tests.faults.checker import check
from tests.faults.cluster import Cluster
from tests.faults.evidence import SUCCEEDED, AcceptedJob, Evidence, ToldJob
from tests.faults.faults import FaultPlan
from tests.faults.followers import Follower, Heard
from tests.faults.gathering import gather_files, gather_job, gather_list, gather_rows
from tests.faults.prober import Prober
from tests.faults.recorded_http import TIMEOUT_S, ErrorLog, recorded_http
from tests.faults.topology import Role
from tests.faults.works import QuietServer, Work

# I1: an accepted job reaches its end within so long after the last fault.
END_TIMEOUT_S: Final = 60.0
# A client that was not answered, or told to come again, does.
INSIST_TIMEOUT_S: Final = 60.0
INSIST_S: Final = 0.1
# Longer than a decoder waits for more of a run that another program has ended.
QUIET_TIMEOUT_S: Final = 15.0
JOIN_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.05
LIVE: Final = "queued,running,cancelling"
# Of so many jobs everything is asked; of the others of ten thousand, the list is.
MOST_WHOLE: Final = 100
NOT_TOLD: Final = ToldJob(answer=None)
SUCCEEDS: Final = frozenset({SUCCEEDED})


@dataclass(slots=True)
class Trial:
    """Made by `open_trial`. random: of the scenario's seed."""

    cluster: Cluster
    quiet: QuietServer
    seed: int
    random: Random
    faults: FaultPlan = field(default_factory=FaultPlan)
    heard: Heard = field(default_factory=Heard)
    errors: ErrorLog = field(default_factory=ErrorLog)
    followers: list[Follower] = field(default_factory=list)
    accepted: list[AcceptedJob] = field(default_factory=list)
    frames_asked: int = 0
    end_timeout_s: float = END_TIMEOUT_S
    _video_ids: dict[Path, str] = field(default_factory=dict)

    def upload(self, path: Path) -> str:
        """Once a scenario; the video's id."""
        if path not in self._video_ids:
            self._video_ids[path] = self.insist("POST", "/v1/videos", content=path.read_bytes())["id"]
        return self._video_ids[path]

    def submit(
        self,
        work: Work,
        *,
        ends: frozenset[str] = SUCCEEDS,
        error_codes: frozenset[str] = frozenset(),
        key: str | None = None,
        is_followed: bool = True,
        cuts: Random | None = None,
    ) -> str:
        """Submit until it is accepted, and follow the job; its id. cuts: as `Follower` takes them."""
        headers = {"Idempotency-Key": key or self.new_key()}
        body = work.body(self.upload(work.video))
        job_id: str = self.insist("POST", "/v1/jobs", json=body, headers=headers)["id"]
        job = self.accept(job_id, work, ends=ends, error_codes=error_codes)
        if is_followed:
            self.frames_asked += len(job.undisturbed.lines)
            self.follow(job_id, cuts=cuts)
        return job_id

    def accept(
        self, job_id: str, work: Work, *, ends: frozenset[str] = SUCCEEDS, error_codes: frozenset[str] = frozenset()
    ) -> AcceptedJob:
        """A job of this work was answered 2xx: from here on it must not be lost."""
        undisturbed = self.quiet.undisturbed(work)
        job = AcceptedJob(id=job_id, undisturbed=undisturbed, ends=ends, error_codes=error_codes)
        self.accepted.append(job)
        return job

    def follow(self, job_id: str, *, cuts: Random | None = None) -> Follower:
        follower = Follower(self.cluster.url, job_id, self.heard, self.errors, cuts=cuts)
        self.followers.append(follower)
        follower.start()
        return follower

    def new_key(self) -> str:
        return str(UUID(int=self.random.getrandbits(128)))

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """For calls whose refusal is what is looked at; the checker looks at its form."""
        with recorded_http(self.cluster.url, self.errors) as http:
            yield http

    def insist(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Ask until it is answered 2xx, as long as the refusals are retryable; the answer."""
        deadline_s = time.monotonic() + INSIST_TIMEOUT_S
        with recorded_http(self.cluster.url, self.errors) as http:
            while True:
                answer = _asked(http, method, path, **request)
                if answer is not None and answer.is_success:
                    return dict(answer.json()) if answer.content else {}
                is_retryable = answer is None or (answer.status_code >= 500 and answer.json().get("retryable"))
                assert is_retryable and time.monotonic() < deadline_s, answer and answer.text  # noqa: PT018
                self.pass_time(INSIST_S)

    def wait_for_share(self, share: float, *, timeout_s: float = END_TIMEOUT_S) -> None:
        """Until followers have heard of so many of all frames being committed: 0.0 is at once, 1.0 near the end."""
        wanted = int(share * self.frames_asked)
        is_so = self.heard.wait_until(lambda: self.heard.frames_committed() >= wanted, timeout_s=timeout_s)
        assert is_so, f"{self.heard.frames_committed()} of {wanted} frames were committed within {timeout_s} s"

    def wait_until(self, is_so: Callable[[], bool], *, what: str, timeout_s: float = END_TIMEOUT_S) -> None:
        """For what no event tells of."""
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
            self.pass_time(POLL_S)

    @staticmethod
    def pass_time(seconds: float) -> None:
        """A moment that belongs to the fault itself: of its length, or the randomness of when it strikes."""
        Event().wait(seconds)

    def wait_for_ends(self) -> None:
        """Until no job is live any more, or the time of those that are is up, which the checker then sees."""
        deadline_s = time.monotonic() + self.end_timeout_s
        with httpx.Client(base_url=self.cluster.url, timeout=TIMEOUT_S, trust_env=False) as http:
            while time.monotonic() < deadline_s:
                answer = _asked(http, "GET", "/v1/jobs", params={"state": LIVE, "limit": 1})
                if answer is not None and answer.is_success and not answer.json()["items"]:
                    return
                self.pass_time(POLL_S)

    def wait_for_quiet(self) -> None:
        """Until the last decoders have gone, which end with their runs."""
        deadline_s = time.monotonic() + QUIET_TIMEOUT_S
        while self.cluster.pids(Role.DECODER) and time.monotonic() < deadline_s:
            self.pass_time(POLL_S)

    def told(self) -> dict[str, ToldJob]:
        """All that the API tells of the jobs, and only how they ended of most where there are very many."""
        job_ids = [job.id for job in self.accepted]
        asked = job_ids if len(job_ids) <= MOST_WHOLE else self.random.sample(job_ids, MOST_WHOLE)

        async def ask() -> dict[str, ToldJob]:
            async with httpx.AsyncClient(base_url=self.cluster.url, timeout=TIMEOUT_S, trust_env=False) as http:
                told = await gather_list(http) if len(asked) < len(job_ids) else {}
                return {job_id: NOT_TOLD for job_id in job_ids} | told | {i: await gather_job(http, i) for i in asked}

        return asyncio.run(ask())


def _asked(http: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response | None:
    """None where nobody answered."""
    try:
        return http.request(method, path, **request)
    except httpx.TransportError:
        return None


def _evidence_of(trial: Trial, prober: Prober) -> Evidence:
    cluster = trial.cluster
    return Evidence(
        seed=trial.seed,
        faults=trial.faults.planned,
        accepted=tuple(trial.accepted),
        told=trial.told(),
        streams=tuple(follower.stream for follower in trial.followers),
        rows=gather_rows(cluster.open_to_read()),
        files=gather_files(
            cluster.seen_data_dir, temporary_dir=cluster.temporary_dir, regions=cluster.former_regions()
        ),
        errors=tuple(trial.errors.answers),
        probes=tuple(prober.probes),
        truths=cluster.truths,
        leftovers=cluster.leftovers(),
        log_alarms=cluster.log_alarms(),
    )


@contextmanager
def open_trial(cluster: Cluster, quiet: QuietServer, seed: int) -> Iterator[Trial]:
    """At the end of the body every accepted job has its time to end, and then the checker judges.

    A failure in the body leaves with the seed noted beside it.
    """
    trial = Trial(cluster, quiet, seed, Random(seed))
    prober = Prober(cluster.url)
    prober.start()
    try:
        try:
            yield trial
            trial.wait_for_ends()
            trial.wait_for_quiet()
            for follower in trial.followers:
                follower.join(timeout_s=JOIN_TIMEOUT_S)
        finally:
            prober.stop()
            for follower in trial.followers:
                follower.stop()
        check(_evidence_of(trial, prober))
    except BaseException as exc:
        exc.add_note(f"seed {seed}, on {cluster.topology.name}; logs in {cluster.folder}")
        raise
