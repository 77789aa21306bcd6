"""The composition root: settings in, running services out. Each thing is opened in one place and closes itself."""

from __future__ import annotations

from orchestrator.bootstrap.foundation import SLOTS_A_DECODER, USUAL_IMGSZ
from orchestrator.bootstrap.services import LoadingCatalogue, Readiness, Services, TritonProbe, open_services
from orchestrator.bootstrap.worker_services import WorkerServices, open_worker

__all__ = [
    "SLOTS_A_DECODER",
    "USUAL_IMGSZ",
    "LoadingCatalogue",
    "Readiness",
    "Services",
    "TritonProbe",
    "WorkerServices",
    "open_services",
    "open_worker",
]
