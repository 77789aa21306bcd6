"""A process on in-memory parts with everything that the web layer asks of it, and counts of what is open in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from litestar import Litestar

from orchestrator.bootstrap import Services
from orchestrator.core.progress import ProgressShare
from orchestrator.core.types import ServedModel
from orchestrator.errors import ModelNotFoundError, TritonUnavailableError
from orchestrator.events.memory import MemoryEventBus
from orchestrator.inference.merged_catalogue import Told
from orchestrator.inference.readiness import EndpointReadiness, TritonReadiness, over_all
from orchestrator.ports import ModelStatus, Subscription, Wake
from orchestrator.settings import load_settings
from orchestrator.testing.fake_model import FakeModelCatalogue, served_model
from orchestrator.testing.memory_files import MemoryIncomingVideo, MemoryVideoFiles
from orchestrator.web.app import build_app
from tests.support.process import Process

CLASS_NAMES = ("person", "car", '=HYPERLINK("x")')


def yolo(name: str = "yolo11n") -> ServedModel:
    """A version whose last class a spreadsheet would take for a formula."""
    model = served_model(name)
    return replace(model, card=replace(model.card, class_names=CLASS_NAMES))


@dataclass(slots=True)
class OpenCount:
    """How many of something are open."""

    now: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    async def until(self, count: int) -> None:
        while self.now != count:
            self._changed.clear()
            await self._changed.wait()

    def _add(self, change: int) -> None:
        self.now += change
        self._changed.set()


@dataclass
class CountedFiles(MemoryVideoFiles):
    """Counts the uploads that are being received."""

    uploads: OpenCount = field(default_factory=OpenCount)

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[MemoryIncomingVideo]:
        with self.uploads.one_more():
            async with super().receive() as incoming:
                yield incoming


@dataclass(slots=True)
class ShortSubscription:
    """Waits at most `most_wait_s`, whatever it is allowed to: as if time went by faster."""

    subscription: Subscription
    most_wait_s: float

    async def next(self, *, timeout_s: float) -> Wake:
        return await self.subscription.next(timeout_s=min(timeout_s, self.most_wait_s))


@dataclass(slots=True)
class CountedBus:
    """`MemoryEventBus` with its subscriptions counted, none of which waits longer than `most_wait_s`."""

    streams: OpenCount
    most_wait_s: float
    bus: MemoryEventBus = field(default_factory=MemoryEventBus)

    @property
    def hears_all(self) -> bool:
        return self.bus.hears_all

    async def ring(self, *ids: str) -> None:
        await self.bus.ring(*ids)

    async def publish_progress(self, share: ProgressShare) -> None:
        await self.bus.publish_progress(share)

    def shares(self, run_id: str) -> Sequence[ProgressShare]:
        return self.bus.shares(run_id)

    @asynccontextmanager
    async def subscribe(self, *ids: str) -> AsyncIterator[Subscription]:
        with self.streams.one_more():
            async with self.bus.subscribe(*ids) as subscription:
                yield ShortSubscription(subscription, self.most_wait_s)


class FakeTriton(FakeModelCatalogue):
    """The models given, as they are when Triton can be away and loads what is not ready."""

    is_away: bool = False

    async def find(self, name: str, version: int | None = None) -> ServedModel:
        self._require_answer()
        return await super().find(name, version)

    async def list(self) -> Sequence[ModelStatus]:
        self._require_answer()
        return await super().list()

    async def load(self, name: str) -> None:
        versions = [status.version for status in await self.list() if status.name == name]
        if not versions:
            raise ModelNotFoundError(f"there is no model {name}")
        for version in versions:
            self.set_ready(name, version, reason_against=None)

    async def readiness(self) -> TritonReadiness:
        endpoint = EndpointReadiness(
            url="127.0.0.1:8001",
            is_ready=not self.is_away,
            reasons=("Triton does not answer",) if self.is_away else (),
            transport="shm",
            transport_reason="",
        )
        return over_all([endpoint], [Told(endpoint.url, await FakeModelCatalogue.list(self))])

    def _require_answer(self) -> None:
        if self.is_away:
            raise TritonUnavailableError("Triton does not answer; try again")


@dataclass
class WebProcess(Process):
    """most_wait_s: after which a stream without news is quiet. environment: more settings than the upload limit."""

    max_upload_bytes: int = 10_000
    most_wait_s: float = 15.0
    environment: Mapping[str, str] = field(default_factory=dict)
    catalogue: FakeTriton = field(default_factory=lambda: FakeTriton([yolo()]))
    uploads: OpenCount = field(default_factory=OpenCount)
    streams: OpenCount = field(default_factory=OpenCount)
    services: Services = field(init=False)

    def __post_init__(self) -> None:
        self.bus = CountedBus(self.streams, self.most_wait_s)
        files = CountedFiles(self.stores.files.world, self.max_upload_bytes, uploads=self.uploads)
        self.stores = replace(self.stores, files=files)
        super().__post_init__()
        environment = {"TRIREEL_PORT": "0", "TRIREEL_MAX_UPLOAD_BYTES": str(self.max_upload_bytes), **self.environment}
        self.services = Services(
            settings=load_settings(environment),
            metrics=self.metrics,
            videos=self.videos,
            jobs=self.jobs,
            results=self.results,
            following=self.following,
            catalogue=self.catalogue,
            triton=self.catalogue,
            job_store=self.stores.jobs,
            event_store=self.stores.events,
        )

    async def plan(self) -> None:
        """Index first what came over HTTP."""
        while await self.videos.index_next():
            pass
        await super().plan()

    @cached_property
    def app(self) -> Litestar:
        """Made once, since that takes longer than most tests: those that only ask may share a process."""
        return build_app(self.services)
