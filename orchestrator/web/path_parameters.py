"""What the addresses of the API name."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from litestar.params import PathParameter

VideoId: TypeAlias = Annotated[str, PathParameter(description="Id of a video, as the upload answered it: `vid_...`.")]
JobId: TypeAlias = Annotated[str, PathParameter(description="Id of a job, as the submit answered it: `job_...`.")]
ModelId: TypeAlias = Annotated[str, PathParameter(description="Name of a published model, without a version.")]
