"""Programs that stand still, and programs that are asked to stop while they are watched."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

import pytest

from tests.faults.conftest import OpenTrial
from tests.faults.gathering import gather_rows
from tests.faults.process_tree import decoders
from tests.faults.topology import PLAIN, SCALED, TWO_SERVERS, Role, Topology, as_parameters
from tests.faults.works import ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, SHORT
from tests.support.faulty_triton import INFER, FaultyTriton, Spoiling

pytestmark = [pytest.mark.needs("triton"), pytest.mark.timeout(180)]

LEASE_S: Final = 2
FOLLOWERS: Final = 10
# The issue's own bound for a stop while clients follow.
STOP_LIMIT_S: Final = 10.0
SILENT_S: Final = 3.0
STALL_TIMEOUT_S: Final = 2
SLOW_S: Final = 0.2
STALLED: Final = "code=decoder_stalled"
BOUNCED: Final = "segment lost to another attempt"


# Several programs take segments of one database.
@pytest.mark.parametrize("topology", as_parameters(TWO_SERVERS, SCALED, thorough={TWO_SERVERS}))
def test_late_commits_of_a_program_that_stood_still_bounce(
    trial_on: OpenTrial, faulty: FaultyTriton, topology: Topology, seed: int
) -> None:
    # With a batch that takes a while, whoever decodes holds leases at any moment.
    faulty.spoil_all(INFER, Spoiling(delay_s=SLOW_S))
    with trial_on(topology, seed, triton_url=faulty.grpc_url, LEASE_S=str(LEASE_S)) as trial:
        fault = trial.faults.plan("SIGSTOP for twice the lease, and a commit that comes too late")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        sleeper = (trial.cluster.worker_names or trial.cluster.api_names)[1]
        sleeper_pid = trial.cluster.running[sleeper].pid
        trial.wait_until(lambda: bool(decoders(sleeper_pid)), what=f"{sleeper} works")
        trial.wait_for_share(trial.random.uniform(0.1, 0.4))
        trial.cluster.pause(sleeper)
        trial.pass_time(2 * LEASE_S)
        faulty.spoil(None)
        trial.cluster.resume(sleeper)
        trial.wait_until(lambda: BOUNCED in trial.cluster.log_of(sleeper), what="a late commit was refused")
        fault.fired(f"{sleeper} ({sleeper_pid})")


@pytest.mark.thorough
@pytest.mark.needs("postgresql")
@pytest.mark.needs("redis")
def test_a_redis_that_answers_nothing_holds_nobody_up(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(SCALED, seed) as trial:
        fault = trial.faults.plan("SIGSTOP of Redis")
        for work in (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.0, 0.4))
        redis = trial.cluster.around.redis
        assert redis is not None
        with redis.stopped():
            fault.fired(redis.pid)
            # The checker looks at how long readiness takes meanwhile.
            trial.pass_time(SILENT_S)
            leaving = trial.cluster.worker_names[0]
            assert trial.cluster.stop(leaving, timeout_s=STOP_LIMIT_S) == 0
            trial.submit(SHORT)
            trial.wait_for_share(1.0)
        trial.cluster.start(leaving)


def test_the_only_server_goes_on_after_it_stood_still(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed, LEASE_S=str(LEASE_S)) as trial:
        fault = trial.faults.plan("SIGSTOP of the only server for twice the lease")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        pid = trial.cluster.pause(Role.API)
        trial.pass_time(2 * LEASE_S)
        trial.cluster.resume(Role.API)
        fault.fired(f"api ({pid})")


def test_a_decoder_that_hangs_is_ended_and_its_segment_decoded_again(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed, STALL_TIMEOUT_S=str(STALL_TIMEOUT_S)) as trial:
        fault = trial.faults.plan("SIGSTOP of a decoder")
        for work in (ALL_FRAMES, EVERY_OTHER):
            trial.submit(work)
        trial.wait_for_share(trial.random.uniform(0.1, 0.4))
        trial.wait_until(lambda: bool(trial.cluster.pids(Role.DECODER)), what="a decoder lives")
        pids = trial.cluster.pids(Role.DECODER)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        # One that waits for its next segment hangs without harm.
        trial.wait_until(lambda: trial.cluster.times_told(STALLED) > 0, what="a decoder is given up at work")
        fault.fired(f"decoders {pids}")


def test_sigterm_lets_followers_go_hands_segments_back_and_ends_with_0(trial_on: OpenTrial, seed: int) -> None:
    with trial_on(PLAIN, seed) as trial:
        fault = trial.faults.plan(f"SIGTERM with {FOLLOWERS} followers")
        job_ids = [trial.submit(work) for work in (ALL_FRAMES, EVERY_OTHER)]
        for _ in range(FOLLOWERS):
            trial.follow(trial.random.choice(job_ids))
        trial.wait_for_share(trial.random.uniform(0.1, 0.6))
        began_s = time.monotonic()
        assert trial.cluster.stop(Role.API, timeout_s=STOP_LIMIT_S) == 0
        fault.fired(f"api, which took {time.monotonic() - began_s:.1f} s to end")
        rows = gather_rows(trial.cluster.open_to_read())
        assert [row for row in rows.segments if row["state"] == "leased"] == []
        assert any(row["state"] == "open" for row in rows.segments), "it had nothing left to do"
        trial.cluster.start(Role.API)
