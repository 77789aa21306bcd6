"""A real embedded Triton for tests, one a session, with a model that needs no ONNX Runtime: `mean_colour`.

`embedded_triton` lives in a thread of its own, so it is supervised whatever loop a test runs on. Tests that break a
server open their own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from orchestrator.core.contract import FRAME_CHANNELS, ModelCard, parameter_name
from orchestrator.core.letterbox import fit_letterbox
from orchestrator.core.types import FrameBatch, FrameStamp
from orchestrator.inference.embedded import open_embedded_triton
from orchestrator.inference.retrying import Retrying
from orchestrator.inference.triton import RETRYING, Triton, open_triton
from orchestrator.settings import Transport, TritonSettings, load_settings
from orchestrator.telemetry import Metrics
from orchestrator.video.slots import SlotPool, open_slots
from tests.support.needs import ROOT

MEAN_COLOUR: Final = "mean_colour"
MEAN_COLOUR_MAX_BATCH: Final = 4
MODEL_FILE: Final = Path(__file__).with_name("mean_colour") / "model.py"
# First pixels that the model obeys; see its docstring.
SLOW: Final = (1, 2, 3)
FAILING: Final = (3, 2, 1)
DYING: Final = (2, 3, 1)
CONFIG: Final = """
backend: "python"
max_batch_size: {max_batch}
input [ {{ name: "frames" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }} ]
output [ {{ name: "candidates" data_type: TYPE_FP32 dims: [ 300, 6 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
version_policy {{ all {{ }} }}
"""


def mean_colour_card(digest: str = "a" * 64) -> ModelCard:
    return ModelCard(
        class_names=tuple(f"green_{value}" for value in range(256)),
        stride=32,
        imgsz=128,
        floor=0.001,
        iou=0.7,
        precision="float32",
        digest=digest,
        weights_sha256="b" * 64,
        certificate="passed",
    )


def write_mean_colour(repository: Path, *, name: str = MEAN_COLOUR, cards: dict[int, ModelCard] | None = None) -> None:
    """Write the model into a repository, or rewrite it. cards: by version; {} leaves the parameters out."""
    cards = {1: mean_colour_card()} if cards is None else cards
    for version in cards or {1: None}:
        folder = repository / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODEL_FILE, folder / "model.py")
    parameters = "".join(
        f'parameters {{ key: "{parameter_name(version)}" value {{ string_value: {quoted(card.to_json())} }} }}\n'
        for version, card in cards.items()
    )
    (repository / name / "config.pbtxt").write_text(CONFIG.format(max_batch=MEAN_COLOUR_MAX_BATCH) + parameters)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def triton_settings(repository: Path, **variables: str) -> TritonSettings:
    """Settings of the embedded server on a repository; variables: without their prefix TRIREEL_."""
    env = {
        "TRIREEL_TRITON_ENV": os.environ.get("TRIREEL_TRITON_ENV", str(ROOT / ".venv-triton")),
        "TRIREEL_MODEL_REPOSITORY": str(repository),
        **{f"TRIREEL_{name}": value for name, value in variables.items()},
    }
    return load_settings(env).triton


@asynccontextmanager
async def reaching(
    settings: TritonSettings,
    slots: SlotPool,
    *,
    transport: Transport = "auto",
    retrying: Retrying = RETRYING,
    metrics: Metrics | None = None,
) -> AsyncIterator[Triton]:
    """`open_triton` on a server that runs already."""
    assert settings.urls
    metrics = metrics or Metrics(CollectorRegistry())
    chosen = replace(settings, transport=transport)
    async with open_triton(chosen, slots, metrics=metrics, log_dir=Path("unused"), retrying=retrying) as triton:
        await triton.wait_connected()
        yield triton


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """A server that a session's tests share. settings: those it was started with, pointing at its address."""

    settings: TritonSettings
    grpc_url: str
    metrics_url: str
    pid: int


@contextmanager
def triton_in_thread(repository: Path, log_dir: Path) -> Iterator[RunningTriton]:
    """An embedded Triton supervised on a loop of its own."""
    ready: Future[RunningTriton] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        settings = triton_settings(repository)
        metrics = Metrics(CollectorRegistry())
        try:
            async with open_embedded_triton(settings, log_dir=log_dir, metrics=metrics) as server:
                assert server.pid is not None
                reached = triton_settings(repository, TRITON_URL=server.grpc_url)
                ready.set_result(RunningTriton(reached, server.grpc_url, server.metrics_url, server.pid))
                await stop.wait()
        except BaseException as exc:
            if ready.done():
                raise
            ready.set_exception(exc)

    thread = Thread(target=lambda: loop.run_until_complete(serve()), name="embedded-triton")
    thread.start()
    try:
        yield ready.result()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def embedded_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """One real Triton for the whole session, serving `mean_colour`; ask for it with `needs("triton")`."""
    folder = tmp_path_factory.mktemp("triton")
    write_mean_colour(folder / "repository")
    with triton_in_thread(folder / "repository", folder / "log") as server:
        yield server


@pytest.fixture
def slots() -> Iterator[SlotPool]:
    """Room for 8 batches of `mean_colour`."""
    slot_bytes = MEAN_COLOUR_MAX_BATCH * mean_colour_card().imgsz ** 2 * FRAME_CHANNELS
    with open_slots(count=8, slot_bytes=slot_bytes, metrics=Metrics(CollectorRegistry())) as pool:
        yield pool


def noise(n: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Frames (n, height, width, 3) of which none is like another, and none asks for trouble."""
    return np.random.default_rng(n).integers(4, 256, (n, height, width, 3), dtype=np.uint8) // np.arange(
        1, n + 1, dtype=np.uint8
    ).reshape(n, 1, 1, 1)


def batch_in(pool: SlotPool, slot: int, frames: NDArray[np.uint8]) -> FrameBatch:
    """Frames (N, H, W, 3), copied into a slot, as a batch."""
    pixels = pool.view(slot, frames.shape)
    pixels[:] = frames
    return batch_of(slot, pixels)


def batch_of(slot: int, pixels: NDArray[np.uint8]) -> FrameBatch:
    """Pixels (N, H, W, 3) as a batch of frames that needed no letterboxing."""
    n, height, width, _ = pixels.shape
    box = fit_letterbox(width, height, imgsz=max(height, width), stride=1)
    return FrameBatch(slot, pixels, tuple(FrameStamp(i, i * 40.0) for i in range(n)), box)
