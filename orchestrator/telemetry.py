"""Metrics and logs. Metrics are made on a registry that is passed in; labels come from fixed sets."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STAGE_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
BATCH_FRAMES: Final = (1, 2, 4, 8, 16, 32, 64)
EXPOSITION_TYPE: Final = CONTENT_TYPE_LATEST


class Metrics:
    """Every metric of the orchestrator. `model` is a published name, `reason` and `code` a code of the error tree."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.http_requests = Counter(
            "trireel_http_requests_total",
            "Requests answered, by route template.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.http_request_seconds = Histogram(
            "trireel_http_request_seconds",
            "Time to the first byte of the answer.",
            ["method", "route"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self.event_streams = Gauge(
            "trireel_event_streams", "Open SSE and WebSocket streams.", ["kind"], registry=registry
        )
        self.queued_jobs = Gauge("trireel_queued_jobs", "Jobs that wait for their turn.", registry=registry)
        self.jobs = Gauge("trireel_jobs", "Jobs in the database, by state.", ["state"], registry=registry)
        self.jobs_finished = Counter(
            "trireel_jobs_finished_total", "Jobs that reached their end.", ["state"], registry=registry
        )
        self.job_failures = Counter(
            "trireel_job_failures_total", "Failed jobs, by code.", ["reason"], registry=registry
        )
        self.frames_inferred = Counter(
            "trireel_frames_inferred_total", "Frames that Triton answered.", ["model"], registry=registry
        )
        self.frames_failed = Counter(
            "trireel_frames_failed_total", "Sampled frames that could not be inferred.", ["reason"], registry=registry
        )
        self.segments_committed = Counter(
            "trireel_segments_committed_total", "Segments whose candidates are stored.", registry=registry
        )
        self.batch_frames = Histogram(
            "trireel_batch_frames", "Frames a request to Triton.", ["model"], buckets=BATCH_FRAMES, registry=registry
        )
        self.inference_seconds = Histogram(
            "trireel_inference_seconds",
            "One request to Triton, retries included.",
            ["model"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self.inference_retries = Counter(
            "trireel_inference_retries_total", "Requests to Triton sent again.", ["reason"], registry=registry
        )
        self.frames_in_flight = Gauge("trireel_frames_in_flight", "Frames that wait for Triton.", registry=registry)
        self.stage_seconds = Histogram(
            "trireel_stage_seconds",
            "Time of one segment in a stage.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=registry,
        )
        self.slots_free = Gauge("trireel_slots_free", "Slots of shared memory that nobody holds.", registry=registry)
        self.decoders_alive = Gauge("trireel_decoders_alive", "Decoder children alive.", registry=registry)
        self.decoder_exits = Counter(
            "trireel_decoder_exits_total", "Decoder children that ended badly.", ["reason"], registry=registry
        )
        self.triton_restarts = Counter(
            "trireel_triton_restarts_total", "Times the embedded Triton was started again.", registry=registry
        )
        self.upload_bytes = Counter("trireel_upload_bytes_total", "Bytes of video received.", registry=registry)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, whose media type is EXPOSITION_TYPE."""
        return generate_latest(self.registry)


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send structlog's events, and the standard library's records, to standard error in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
