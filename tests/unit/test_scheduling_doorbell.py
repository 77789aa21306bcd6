from __future__ import annotations

import ssl
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from orchestrator.errors import DoorbellError
from orchestrator.scheduling.celery_program import build_celery
from orchestrator.scheduling.doorbell import RingingWhileWorkWaits


@dataclass
class Ringer:
    """Counts the rings that it was asked for. is_away: whether Redis is."""

    rings: int = 0
    is_away: bool = False

    async def ring(self) -> int:
        if self.is_away:
            raise DoorbellError("Redis: connection refused")
        self.rings += 1
        return 1


async def work_waits() -> bool:
    return True


async def nothing_waits() -> bool:
    return False


async def test_nobody_is_rung_for_nothing() -> None:
    ringer = Ringer()
    assert not await RingingWhileWorkWaits(ringer, nothing_waits).step()
    assert ringer.rings == 0


async def test_idle_workers_are_rung_as_long_as_work_waits() -> None:
    ringer = Ringer()
    ringing = RingingWhileWorkWaits(ringer, work_waits)
    # Never "there is more": the loop would spin until somebody has taken the work.
    assert [await ringing.step() for _ in range(3)] == [False] * 3
    assert ringer.rings == 3


async def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    ringer = Ringer(is_away=True)
    ringing = RingingWhileWorkWaits(ringer, work_waits)
    with capture_logs() as logs:
        for _ in range(3):
            assert not await ringing.step()
        ringer.is_away = False
        for _ in range(2):
            await ringing.step()
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert ringer.rings == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [("rediss://redis.example/0", ssl.CERT_REQUIRED), ("rediss://redis.example/0?ssl_cert_reqs=none", ssl.CERT_NONE)],
)
def test_celery_believes_no_redis_without_a_certificate_unless_told_to(url: str, expected: ssl.VerifyMode) -> None:
    assert build_celery(url).connection().ssl["ssl_cert_reqs"] is expected
