"""Settings: frozen values built from environment variables, all checked before anything starts.

Each part of the program receives its own section only. `VARIABLES` is the one list of names, defaults and
meanings; the README's table is compared with it by a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from orchestrator.errors import SettingsError

Transport = Literal["auto", "shm", "grpc"]
REDIS_SCHEMES: Final = ("redis://", "rediss://")
GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable. default: as one would write it; "" means unset."""

    name: str
    default: str
    meaning: str


VARIABLES: Final = (
    Variable("TRIREEL_HOST", "127.0.0.1", "Address the API listens on."),
    Variable("TRIREEL_PORT", "8080", "Port of the API; 0 takes a free one."),
    Variable("TRIREEL_DATA_DIR", "./data", "Videos, results and the SQLite database."),
    Variable("TRIREEL_MODEL_REPOSITORY", "./model_repository", "Published model versions."),
    Variable(
        "TRIREEL_TRITON_URL",
        "",
        "host:port of a Triton's gRPC endpoint, or several with commas; unset starts the embedded server.",
    ),
    Variable("TRIREEL_TRITON_METRICS_PORT", "0", "Metrics port of the embedded Triton; 0 takes a free one."),
    Variable("TRIREEL_TRITON_TIMEOUT_S", "30", "Deadline of one request to Triton, in seconds."),
    Variable("TRIREEL_TRITON_ENV", "./.venv-triton", "The embedded Triton's Python environment."),
    Variable("TRIREEL_DEVICE", "cpu", "What Triton runs on, cpu or gpu: chooses the sizes below where unset."),
    Variable("TRIREEL_TRANSPORT", "auto", "How frames reach Triton: auto, shm or grpc."),
    Variable("TRIREEL_DATABASE_URL", "", "postgresql+psycopg://...; unset is SQLite in the data directory."),
    Variable(
        "TRIREEL_REDIS_URL", "", "redis://host:port/number; set, `trireel worker`s do the work, and Redis wakes them."
    ),
    Variable("TRIREEL_DECODERS", "", "Segments worked on at once; unset is the number of cores, at most 8."),
    Variable("TRIREEL_SEGMENT_FRAMES", "", "Sampled frames a segment; unset is 64 on a CPU, 512 on a GPU."),
    Variable("TRIREEL_BATCH_FRAMES", "", "Most frames a request to Triton; unset is 4 on a CPU, 16 on a GPU."),
    Variable("TRIREEL_MAX_RUNNING_JOBS", "20", "Jobs worked on at once; the others wait in the queue."),
    Variable("TRIREEL_MAX_UPLOAD_BYTES", str(8 * GIB), "Largest video file."),
    Variable("TRIREEL_MAX_DURATION_S", "86400", "Longest video, in seconds."),
    Variable("TRIREEL_MAX_FRAME_PIXELS", str(4320 * 7680), "Largest frame, in pixels."),
    Variable("TRIREEL_MAX_FPS", "240", "Highest frame rate."),
    Variable("TRIREEL_MAX_FRAMES", "10000000", "Most frames a video."),
    Variable("TRIREEL_DECODER_MEMORY_BYTES", str(4 * GIB), "Address space of one decoder."),
    Variable(
        "TRIREEL_STALL_TIMEOUT_S", "300", "An open segment without a new batch for so long is given up, in seconds."
    ),
    Variable("TRIREEL_LEASE_S", "60", "How long a segment stays with a worker that shows no life, in seconds."),
    Variable("TRIREEL_METRICS_PORT", "0", "Port of a worker's metrics; 0 takes a free one."),
    Variable(
        "TRIREEL_WAIT_BUDGET_S", "3600", "How long a run may wait for Triton or its model before it fails, in seconds."
    ),
    Variable("TRIREEL_STOP_TIMEOUT_S", "8", "Grace period after SIGTERM, in seconds."),
    Variable("TRIREEL_LOG_FORMAT", "text", "text for people, json for machines."),
    Variable("TRIREEL_LOG_LEVEL", "info", "debug, info, warning or error."),
)
DEFAULTS: Final[Mapping[str, str]] = {variable.name: variable.default for variable in VARIABLES}


# What clients of the API read, and servers ignore.
CLIENT_VARIABLES: Final = frozenset({"TRIREEL_URL"})


@dataclass(frozen=True, slots=True)
class DeviceSizes:
    segment_frames: int
    batch_frames: int


# A CPU is full at one frame a core, so small batches keep cancelling and fairness quick; a GPU wants large ones.
SIZES_BY_DEVICE: Final = {
    "cpu": DeviceSizes(segment_frames=64, batch_frames=4),
    "gpu": DeviceSizes(segment_frames=512, batch_frames=16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    host: str
    port: int
    max_upload_bytes: int
    stop_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSettings:
    """urls: host:port each; none starts the embedded server from `environment` on `model_repository`."""

    urls: tuple[str, ...]
    metrics_port: int
    timeout_s: float
    environment: Path
    device: Literal["cpu", "gpu"]
    transport: Transport
    model_repository: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    database_url: str
    data_dir: Path
    max_upload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """url: None where one process does all the work, and nothing has to travel."""

    url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """What a video may be at most; longer, larger or faster ones are refused with `video_over_limit`."""

    max_duration_s: float
    max_frame_pixels: int
    max_fps: float
    max_frames: int
    decoder_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSettings:
    """cores: that this process may use. decoders: segments worked on at once. batch_frames: most frames a request.

    metrics_port: of a worker; an API shows its metrics beside its other answers.
    """

    cores: int
    decoders: int
    segment_frames: int
    batch_frames: int
    max_running_jobs: int
    stall_timeout_s: float
    lease_s: float
    metrics_port: int
    wait_budget_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    format: Literal["text", "json"]
    level: Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    http: HttpSettings
    triton: TritonSettings
    storage: StorageSettings
    redis: RedisSettings
    limits: VideoLimits
    work: WorkSettings
    log: LogSettings


class _Reader:
    """Reads variables and gathers every complaint, so that all are reported at once."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.complaints: list[str] = []

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip() or DEFAULTS[name]

    def optional_text(self, name: str) -> str | None:
        return self.text(name) or None

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        text = self.text(name).lower()
        if text in allowed:
            return text
        self.complaints.append(f"{name} must be one of {', '.join(allowed)}, not {text!r}")
        return allowed[0]

    def integer(self, name: str, low: int, high: int, *, unset: int = 0) -> int:
        return int(self._number(name, int, low, high, unset))

    def seconds(self, name: str, low: float, high: float) -> float:
        return self._number(name, float, low, high, 0.0)

    def _number(self, name: str, kind: Callable[[str], float], low: float, high: float, unset: float) -> float:
        text = self.text(name)
        if not text:
            return unset
        try:
            number = kind(text)
        except ValueError:
            self.complaints.append(f"{name} must be a number, not {text!r}")
            return low
        if not low <= number <= high:
            self.complaints.append(f"{name} must lie between {low} and {high}, not {text}")
            return low
        return number

    def path(self, name: str) -> Path:
        return Path(self.text(name)).expanduser().absolute()

    def triton_addresses(self, name: str) -> tuple[str, ...]:
        """host:port of gRPC endpoints, parted by commas."""
        text = self.optional_text(name)
        addresses: list[str] = []
        for part in text.split(",") if text else ():
            address = _host_and_port(part.strip())
            if address is None:
                self.complaints.append(f"{name} must be host:port of Triton's gRPC endpoint, not {part.strip()!r}")
            elif address in addresses:
                self.complaints.append(f"{name} names {address} twice")
            else:
                addresses.append(address)
        return tuple(addresses)

    def redis_url(self, name: str) -> str | None:
        text = self.optional_text(name)
        if text is not None and not (text.startswith(REDIS_SCHEMES) and urlsplit(text).hostname):
            self.complaints.append(f"{name} must be like redis://host:6379/0, not {text!r}")
            return None
        return text

    def complain_about_unknown(self) -> None:
        for name in sorted(set(self._env) - set(DEFAULTS)):
            if name.startswith("TRIREEL_") and name not in CLIENT_VARIABLES:
                close = get_close_matches(name, DEFAULTS, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.complaints.append(f"{name} is no setting{hint}")


def _host_and_port(text: str) -> str | None:
    """None if it is no address; a scheme, as people like to write it, is taken off."""
    parts = urlsplit(text if "//" in text else f"//{text}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not port:
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_settings(env: Mapping[str, str], *, cores: int | None = None) -> Settings:
    """Build the settings from a mapping such as `os.environ`. cores: of this machine, unless given.

    Raises one SettingsError that names every wrong variable.
    """
    read = _Reader(env)
    read.complain_about_unknown()
    device = read.choice("TRIREEL_DEVICE", ("cpu", "gpu"))
    http = _read_http(read)
    settings = Settings(
        http=http,
        triton=_read_triton(read, device),
        storage=_read_storage(read, max_upload_bytes=http.max_upload_bytes),
        redis=RedisSettings(url=read.redis_url("TRIREEL_REDIS_URL")),
        limits=_read_limits(read),
        work=_read_work(read, SIZES_BY_DEVICE[device], cores=cores or len(os.sched_getaffinity(0))),
        log=_read_log(read),
    )
    complaints = [*read.complaints, *_contradictions(settings)]
    if complaints:
        raise SettingsError("; ".join(complaints))
    return settings


def _read_http(read: _Reader) -> HttpSettings:
    return HttpSettings(
        host=read.text("TRIREEL_HOST"),
        port=read.integer("TRIREEL_PORT", 0, 65535),
        max_upload_bytes=read.integer("TRIREEL_MAX_UPLOAD_BYTES", 1, 1024 * GIB),
        stop_timeout_s=read.seconds("TRIREEL_STOP_TIMEOUT_S", 0.1, 600),
    )


def _read_triton(read: _Reader, device: str) -> TritonSettings:
    return TritonSettings(
        urls=read.triton_addresses("TRIREEL_TRITON_URL"),
        metrics_port=read.integer("TRIREEL_TRITON_METRICS_PORT", 0, 65535),
        timeout_s=read.seconds("TRIREEL_TRITON_TIMEOUT_S", 0.1, 3600),
        environment=read.path("TRIREEL_TRITON_ENV"),
        device=device,  # type: ignore[arg-type]  # `choice` has checked it
        transport=read.choice("TRIREEL_TRANSPORT", ("auto", "shm", "grpc")),  # type: ignore[arg-type]  # checked
        model_repository=read.path("TRIREEL_MODEL_REPOSITORY"),
    )


def _read_storage(read: _Reader, *, max_upload_bytes: int) -> StorageSettings:
    data_dir = read.path("TRIREEL_DATA_DIR")
    return StorageSettings(
        database_url=read.optional_text("TRIREEL_DATABASE_URL") or f"sqlite:///{data_dir}/trireel.db",
        data_dir=data_dir,
        max_upload_bytes=max_upload_bytes,
    )


def _read_limits(read: _Reader) -> VideoLimits:
    return VideoLimits(
        max_duration_s=read.seconds("TRIREEL_MAX_DURATION_S", 1, 10**7),
        max_frame_pixels=read.integer("TRIREEL_MAX_FRAME_PIXELS", 1, 2**31),
        max_fps=read.seconds("TRIREEL_MAX_FPS", 1, 10**5),
        max_frames=read.integer("TRIREEL_MAX_FRAMES", 1, 10**9),
        decoder_memory_bytes=read.integer("TRIREEL_DECODER_MEMORY_BYTES", 256 * 1024**2, 1024 * GIB),
    )


def _read_work(read: _Reader, sizes: DeviceSizes, *, cores: int) -> WorkSettings:
    return WorkSettings(
        cores=cores,
        decoders=read.integer("TRIREEL_DECODERS", 1, 256, unset=min(cores, 8)),
        segment_frames=read.integer("TRIREEL_SEGMENT_FRAMES", 1, 10**7, unset=sizes.segment_frames),
        batch_frames=read.integer("TRIREEL_BATCH_FRAMES", 1, 256, unset=sizes.batch_frames),
        max_running_jobs=read.integer("TRIREEL_MAX_RUNNING_JOBS", 1, 10**5),
        stall_timeout_s=read.seconds("TRIREEL_STALL_TIMEOUT_S", 0.1, 10**6),
        lease_s=read.seconds("TRIREEL_LEASE_S", 1, 10**6),
        metrics_port=read.integer("TRIREEL_METRICS_PORT", 0, 65535),
        wait_budget_s=read.seconds("TRIREEL_WAIT_BUDGET_S", 1, 10**7),
    )


def _read_log(read: _Reader) -> LogSettings:
    return LogSettings(
        format=read.choice("TRIREEL_LOG_FORMAT", ("text", "json")),  # type: ignore[arg-type]  # checked
        level=read.choice("TRIREEL_LOG_LEVEL", ("debug", "info", "warning", "error")),  # type: ignore[arg-type]
    )


def _contradictions(settings: Settings) -> Iterator[str]:
    """Settings that are well each, but not together."""
    if settings.redis.url and not settings.storage.database_url.startswith("postgresql"):
        yield (
            "TRIREEL_REDIS_URL leaves the work to workers, which need a database they can share; set "
            "TRIREEL_DATABASE_URL to a PostgreSQL"
        )
