"""Metrics and logs. Metrics are made on a registry that is passed in; labels come from fixed sets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    start_http_server,
)

from orchestrator.errors import SettingsError, TritonTimeoutError, TritonUnavailableError

REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STAGE_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
STREAM_KINDS: Final = ("sse", "ws")
FINAL_STATES: Final = ("succeeded", "failed", "cancelled")
STAGES: Final = ("decoding", "waiting", "inferring", "writing")
DECODER_EXITS: Final = ("crashed", "stalled")
BATCH_FRAMES: Final = (1, 2, 4, 8, 16, 32, 64)
EXPOSITION_TYPE: Final = CONTENT_TYPE_LATEST


class Metrics:
    """Every metric of the orchestrator. `model` is a published name, `reason` and `code` a code of the error tree."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)

        http = ["method", "route", "status"]
        self.http_requests = counter("trireel_http_requests_total", "Requests answered, by route template.", http)
        self.http_request_seconds = histogram(
            "trireel_http_request_seconds", "Time to the first byte of the answer.", http[:2], buckets=REQUEST_SECONDS
        )
        self.event_streams = gauge("trireel_event_streams", "Open SSE and WebSocket streams.", ["kind"])
        self.upload_bytes = counter("trireel_upload_bytes_total", "Bytes of video received.")

        self.queued_jobs = gauge("trireel_queued_jobs", "Jobs that wait for their turn.")
        self.jobs = gauge("trireel_jobs", "Jobs in the database, by state.", ["state"])
        self.jobs_finished = counter("trireel_jobs_finished_total", "Jobs that reached their end.", ["state"])
        self.job_failures = counter("trireel_job_failures_total", "Failed jobs, by code.", ["reason"])

        self.frames_inferred = counter("trireel_frames_inferred_total", "Frames that Triton answered.", ["model"])
        self.frames_failed = counter(
            "trireel_frames_failed_total", "Sampled frames that could not be inferred.", ["reason"]
        )
        self.segments_committed = counter("trireel_segments_committed_total", "Segments whose candidates are stored.")
        self.stage_seconds = histogram(
            "trireel_stage_seconds", "Time of one segment in a stage.", ["stage"], buckets=STAGE_SECONDS
        )

        self.batch_frames = histogram(
            "trireel_batch_frames", "Frames a request to Triton.", ["model"], buckets=BATCH_FRAMES
        )
        self.inference_seconds = histogram(
            "trireel_inference_seconds", "One request to Triton, retries included.", ["model"], buckets=STAGE_SECONDS
        )
        self.inference_retries = counter(
            "trireel_inference_retries_total", "Requests to Triton sent again.", ["reason"]
        )
        self.frames_in_flight = gauge("trireel_frames_in_flight", "Frames that wait for Triton.")
        self.triton_restarts = counter("trireel_triton_restarts_total", "Times the embedded Triton was started again.")

        self.slots_free = gauge("trireel_slots_free", "Slots of shared memory that nobody holds.")
        self.decoders_alive = gauge("trireel_decoders_alive", "Decoder children alive.")
        self.decoder_exits = counter("trireel_decoder_exits_total", "Decoder children that ended badly.", ["reason"])

        self._begin_series()

    def _begin_series(self) -> None:
        """Show the series of every fixed label at zero: Prometheus sees no increase in one that begins with 1."""
        for metric, labels in (
            (self.event_streams, STREAM_KINDS),
            (self.jobs_finished, FINAL_STATES),
            (self.stage_seconds, STAGES),
            (self.inference_retries, (TritonUnavailableError.code, TritonTimeoutError.code)),
            (self.decoder_exits, DECODER_EXITS),
        ):
            for label in labels:
                metric.labels(label)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, whose media type is EXPOSITION_TYPE."""
        return generate_latest(self.registry)


@contextmanager
def serving_metrics(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Answer /metrics in a thread, for a program without an API; yields the port. port: 0 takes a free one.

    Raises SettingsError where the address cannot be had.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise SettingsError(f"metrics cannot be served on {host}:{port} ({reason}); set TRIREEL_METRICS_PORT") from exc
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
    # It tells of every plug-in that it sets up, at each start.
    logging.getLogger("alembic").setLevel(max(root.level, logging.WARNING))
