"""A video and a model as they are named on the command line, found on the server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from orchestrator.errors import ModelNotReadyError, RequestInvalidError

if TYPE_CHECKING:
    from orchestrator.cli.display import Display
    from orchestrator.client import Client

VIDEO_ID_PREFIX: Final = "vid_"


def is_video_id(video: str) -> bool:
    """Whether it names a video on the server; a file of that name goes first."""
    return video.startswith(VIDEO_ID_PREFIX) and not Path(video).exists()


def check_video(video: str) -> None:
    """Complain about a file that is not there before anything is started for it."""
    if not is_video_id(video) and not Path(video).is_file():
        raise click.BadParameter(f"there is no file {video!r}, and it is no id ({VIDEO_ID_PREFIX}...)")


def send_video(client: Client, video: str, display: Display) -> str:
    """The id of `video`, uploaded unless it is one already."""
    if is_video_id(video):
        return video
    return client.upload(Path(video), on_progress=display.uploaded).id


def choose_model(client: Client, name: str | None) -> str:
    """`name`, or the only model that is ready. Raises RequestInvalidError when there are several to choose from."""
    if name is not None:
        return name
    ready = [model.name for model in client.models() if any(version.is_ready for version in model.versions)]
    if not ready:
        raise ModelNotReadyError("no model is ready; publish one with `make model WEIGHTS=... NAME=...`")
    if len(ready) > 1:
        raise RequestInvalidError(f"several models are served; choose one with --model: {', '.join(sorted(ready))}")
    return ready[0]
