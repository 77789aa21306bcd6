"""The sampled frames of runs, read from their videos' indices and kept for the runs that are asked about."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from orchestrator.core.records import Run
from orchestrator.core.sampling import SampledFrames
from orchestrator.ports import VideoFiles

# As many runs as workers switch between; an index takes 17 bytes a frame here.
MOST_KEPT: Final = 32


@dataclass(slots=True, kw_only=True)
class SampledRuns:
    """An index never changes once it is made, so nothing kept here can be stale."""

    files: VideoFiles
    _kept: OrderedDict[str, SampledFrames] = field(default_factory=OrderedDict)

    async def of(self, run: Run) -> SampledFrames:
        """Raises StorageError when the index is missing or torn."""
        frames = self._kept.pop(run.id, None)
        if frames is None:
            frames = SampledFrames.of(await self.files.load_index(run.video_id), run.spec.sampling)
        self._kept[run.id] = frames
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return frames
