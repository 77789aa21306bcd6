"""What a video of a day costs before its first frame is decoded: `python -m benchmarks.day_of_video [url]`.

url: of an empty PostgreSQL database; else SQLite. Prints what planning and opening the run cost, how large a segment's
candidates are, for segments of a CPU and of a GPU, and how large the video's index is.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.long_run import CARD, FPS, HEADER, PER_FRAME, drifting_boxes
from benchmarks.storage import NOW, Times
from orchestrator.core.planning import plan_segments
from orchestrator.core.records import Video
from orchestrator.core.sampling import SampledFrames
from orchestrator.core.types import FrameIndex, IndexReport, JobSpec, ModelVersion, RunSpec, Sampling
from orchestrator.settings import StorageSettings
from orchestrator.storage.index_codec import encode_index
from orchestrator.storage.part_codec import encode_part
from orchestrator.storage.stores import Stores, open_stores

DAY_S: Final = 24 * 60 * 60
FRAMES: Final = DAY_S * FPS
SEGMENT_FRAMES: Final = (64, 512)


def day_of_video() -> FrameIndex:
    """A key frame a second."""
    return FrameIndex(np.arange(FRAMES, dtype=np.int64), np.arange(FRAMES) % FPS == 0, Fraction(1, FPS))


async def measure(stores: Stores, times: Times) -> None:
    index = day_of_video()
    video = Video(id="vid_1", owner="", sha256="a" * 64, size_bytes=1, file_name="a.mp4", header=HEADER, created_at=NOW)
    await stores.videos.add(video)
    report = IndexReport(frame_count=FRAMES, duration_s=DAY_S, fps=FPS, is_vfr=False)
    await stores.videos.set_indexed(video.id, report)
    for number, segment_frames in enumerate(SEGMENT_FRAMES, start=1):
        run = RunSpec(video.sha256, ModelVersion("cars", number, CARD.digest), Sampling())
        job, _ = await stores.jobs.submit(JobSpec(run=run), card=CARD, video_id=video.id, owner="", now=NOW)
        await stores.jobs.admit(max_running=len(SEGMENT_FRAMES), now=NOW)
        with times.of(f"plan in segments of {segment_frames}"):
            plans = plan_segments(SampledFrames.of(index, run.sampling), segment_frames=segment_frames)
        with times.of(f"open a run of {len(plans)} segments"):
            await stores.runs.open(job.run_id, plans=plans, skipped=0, warnings=(), notes=())


def sizes() -> dict[str, int]:
    """Bytes."""
    rng = np.random.default_rng(0)
    parts = {
        f"candidates of {count} frames x {PER_FRAME}": len(encode_part(drifting_boxes(range(count), rng)))
        for count in SEGMENT_FRAMES
    }
    return {**parts, "index": len(encode_index(day_of_video()))}


async def main(folder: Path, database_url: str | None) -> None:
    settings = StorageSettings(
        database_url=database_url or f"sqlite:///{folder}/trireel.db", data_dir=folder, max_upload_bytes=2**40
    )
    times = Times()
    async with open_stores(settings) as stores:
        await measure(stores, times)
    for line in [*times.lines(), *(f"{what:34} {size_bytes / 1e3:9.1f} KB" for what, size_bytes in sizes().items())]:
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own_folder:
        asyncio.run(main(Path(own_folder), sys.argv[1] if len(sys.argv) > 1 else None))
