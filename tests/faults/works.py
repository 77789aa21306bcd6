"""The work that scenarios ask for, and what an undisturbed server makes of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.faults.evidence import SUCCEEDED, Undisturbed
from tests.faults.gathering import gather_job
from tests.faults.served_models import DEMO
from tests.support.needs import ROOT

# 250 frames of 640x360 with moving shapes, of which the demo model finds six a frame.
CLIP: Final = ROOT / "export" / "demo" / "clip.mp4"
DONE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request for detections in `video`. priority, timeout_s: None is the server's default."""

    video: Path = CLIP
    model: str = DEMO
    every_nth: int = 1
    start_s: float | None = None
    end_s: float | None = None
    priority: int | None = None

    def body(self, video_id: str) -> dict[str, Any]:
        """Of a submit."""
        asked = {"every_nth": self.every_nth, "start_s": self.start_s, "end_s": self.end_s, "priority": self.priority}
        # Weak boxes too: the more there are, the more can be wrong.
        body: dict[str, Any] = {"video_id": video_id, "model": self.model, "view": {"conf": 0.05}}
        return body | {name: value for name, value in asked.items() if value is not None}


ALL_FRAMES: Final = Work()
EVERY_OTHER: Final = Work(every_nth=2)
EVERY_THIRD: Final = Work(every_nth=3)
SHORT: Final = Work(every_nth=2, end_s=2.0)
# What most scenarios ask for, made before the first of them, so that nothing of it runs beside a fault.
USUAL: Final = (ALL_FRAMES, EVERY_OTHER, EVERY_THIRD, SHORT)


def part_of_clip(number: int, *, length_s: float = 2.0) -> Work:
    """A run of its own for each number: a stretch of the clip."""
    return Work(start_s=0.25 * number, end_s=0.25 * number + length_s)


@dataclass(slots=True)
class QuietServer:
    """A server that nothing is done to; asks it once for each work."""

    url: str
    _made: dict[Work, Undisturbed] = field(default_factory=dict)
    _video_ids: dict[Path, str] = field(default_factory=dict)

    def undisturbed(self, work: Work) -> Undisturbed:
        if work not in self._made:
            self._made[work] = asyncio.run(self._make(work))
        return self._made[work]

    async def _make(self, work: Work) -> Undisturbed:
        async with httpx.AsyncClient(base_url=self.url, timeout=DONE_S, trust_env=False) as http:
            if work.video not in self._video_ids:
                uploaded = await http.post("/v1/videos", content=work.video.read_bytes())
                self._video_ids[work.video] = uploaded.raise_for_status().json()["id"]
            submitted = await http.post("/v1/jobs", json=work.body(self._video_ids[work.video]))
            job_id = submitted.raise_for_status().json()["id"]
            # The stream ends when the job does.
            await http.get(f"/v1/jobs/{job_id}/events")
            told = await gather_job(http, job_id)
        assert told.answer is not None
        assert told.answer["state"] == SUCCEEDED, told.answer["error"]
        assert told.answer["ledger"]["inferred"] == len(told.lines) > 0
        return Undisturbed(lines=told.lines, warnings=tuple(told.answer["warnings"]))
