"""The one error tree. Every class has a stable `code`; `retryable` says whether the same call may work later.

What only a client of the API meets is a branch in `client_errors`.
The web layer maps classes to HTTP statuses, the command line to exit codes; nobody reads messages.
"""

from __future__ import annotations

from typing import ClassVar


class TrireelError(Exception):
    """The root. Its message is a sentence for the person who must act on it."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False


class SettingsError(TrireelError):
    """One or more settings are wrong; the message lists all of them."""

    code = "settings_invalid"


class DataDirForeignError(SettingsError):
    """The data directory and the database were not used with each other before."""

    code = "data_dir_foreign"


# What a caller asked for cannot be asked.


class RequestInvalidError(TrireelError):
    """A request that can never succeed as it stands."""

    code = "request_invalid"


class SamplingInvalidError(RequestInvalidError):
    code = "sampling_invalid"


class ThresholdOutOfRangeError(RequestInvalidError):
    """A confidence, IoU or count outside what is meaningful."""

    code = "threshold_out_of_range"


class ThresholdNotStoredError(RequestInvalidError):
    """A looser threshold than the candidates were stored with: those boxes are gone."""

    code = "threshold_not_stored"


class ClassUnknownError(RequestInvalidError):
    code = "class_unknown"


class CursorInvalidError(RequestInvalidError):
    code = "cursor_invalid"


class FormatUnknownError(RequestInvalidError):
    code = "format_unknown"


class EventIdInvalidError(RequestInvalidError):
    """Where to resume a stream of events is no id that a stream has told."""

    code = "event_id_invalid"


class IdempotencyKeyInvalidError(RequestInvalidError):
    """An `Idempotency-Key` that is empty, too long, or not of visible ASCII characters."""

    code = "idempotency_key_invalid"


class IdempotencyKeyReusedError(RequestInvalidError):
    """The key named another request before."""

    code = "idempotency_key_reused"


class NotSupportedError(RequestInvalidError):
    """Part of the API to come, refused rather than ignored."""

    code = "not_supported"


# What a caller asked for is not there, or not now.


class NotFoundError(TrireelError):
    code = "not_found"


class VideoNotFoundError(NotFoundError):
    code = "video_not_found"


class JobNotFoundError(NotFoundError):
    code = "job_not_found"


class ModelNotFoundError(NotFoundError):
    code = "model_not_found"


class ModelNotReadyError(TrireelError):
    """The model exists, but Triton does not serve it."""

    code = "model_not_ready"
    retryable = True


class VideoInUseError(TrireelError):
    """A job, live or finished, refers to the video."""

    code = "video_in_use"


class TransitionError(TrireelError):
    """A state that cannot follow the present one."""

    code = "state_conflict"


# Uploads.


class UploadError(TrireelError):
    code = "upload_invalid"


class UploadTooLargeError(UploadError):
    code = "upload_too_large"


class UploadEmptyError(UploadError):
    code = "upload_empty"


class UploadInterruptedError(UploadError):
    """The client went away before the last byte."""

    code = "upload_interrupted"


# Videos.


class VideoError(TrireelError):
    """The content of a video cannot be used."""

    code = "video_invalid"


class VideoUnreadableError(VideoError):
    """No demuxer opens it, or not one frame of it decodes."""

    code = "video_unreadable"


class VideoWithoutPictureError(VideoError):
    """It has no video stream: audio, cover art or subtitles only."""

    code = "video_without_picture"


class VideoEncryptedError(VideoError):
    code = "video_encrypted"


class VideoOverLimitError(VideoError):
    """Longer, larger or faster than the limits that `GET /v1/limits` names."""

    code = "video_over_limit"


class VideoWithoutFramesError(VideoError):
    """Every sampled frame failed, or the sampling leaves none."""

    code = "video_without_frames"


class DecoderError(TrireelError):
    """A decoder child did not do its work."""

    code = "decoder_failed"
    retryable = True


class DecoderCrashedError(DecoderError):
    """The child died: killed by a signal, by its limits, or by a bug in a codec."""

    code = "decoder_crashed"


class DecoderUnavailableError(DecoderError):
    """No decoder can be started just now; the file has nothing to do with it."""

    code = "decoder_unavailable"


class DecoderStalledError(DecoderError):
    """The child lives, but made no batch for the stall time-out."""

    code = "decoder_stalled"


class SharedMemoryFullError(TrireelError):
    """Shared memory has no room for the slots."""

    code = "shared_memory_full"


class FrameTooLargeError(TrireelError):
    """One letterboxed frame does not fit into a slot: the model's `imgsz` is over what the slots were made for."""

    code = "frame_too_large"


# Inference.


class InferenceError(TrireelError):
    """Triton refused or failed a request for good."""

    code = "inference_failed"


class TritonUnavailableError(InferenceError):
    """Triton cannot be reached, or is too busy to answer."""

    code = "triton_unavailable"
    retryable = True


class TritonBrokeError(TritonUnavailableError):
    """Triton, or the connection to it, broke while it had a batch. life: which connection it was."""

    def __init__(self, message: str, *, life: tuple[str, int]) -> None:
        super().__init__(message)
        self.life = life


class TritonTimeoutError(TritonUnavailableError):
    """No answer within the deadline."""

    code = "triton_timeout"


class BatchBreaksTritonError(InferenceError):
    """Triton broke under the same frames again and again."""

    code = "batch_breaks_triton"


class TritonStartError(InferenceError):
    """The embedded server did not become ready; the message ends with its log's last error."""

    code = "triton_start_failed"


class SharedMemoryRefusedError(InferenceError):
    """The server takes no client shared memory; gRPC carries the frames instead."""

    code = "shared_memory_refused"


class ContractError(InferenceError):
    """A model version does not keep the contract of `core/contract.py`."""

    code = "contract_broken"


class ModelChangedError(InferenceError):
    """Triton serves another network under this version than the run began with."""

    code = "model_changed"


# Storage.


class StorageError(TrireelError):
    code = "storage_failed"
    retryable = True


class CommitUnknownError(StorageError):
    """What was to be stored may be, or not: the database went away before it said which."""


class DiskFullError(StorageError):
    code = "disk_full"


class DataDamagedError(StorageError):
    """Something stored cannot be read back; trying again changes nothing."""

    code = "data_damaged"
    retryable = False


class DataDirLockedError(StorageError):
    """Another server works in this data directory."""

    code = "data_dir_locked"
    retryable = False


class PartsMovedError(StorageError):
    """The run was finalized while its parts were read: the archive has all of them."""

    code = "parts_moved"


class LeaseLostError(StorageError):
    """The segment belongs to another attempt by now: drop the work, write nothing."""

    code = "lease_lost"
    retryable = False


# Between API and workers.


class DoorbellError(TrireelError):
    """Redis does not take or give rings just now. Workers look for work by themselves; nobody is told of it."""

    code = "doorbell_unavailable"
    retryable = True


# What ends while somebody still listens.


class ServerStoppingError(TrireelError):
    """The server stops before a result that follows its job was whole."""

    code = "server_stopping"
    retryable = True


# Jobs that ended badly, and export.


class RunUnwantedError(TrireelError):
    """The last job let go of its run while a segment was being worked on; no failure, only an end."""

    code = "run_unwanted"


class WorkerLostError(TrireelError):
    """Whoever worked on a segment showed no life until its lease ended: the process or its machine died, or hung."""

    code = "worker_lost"


class JobTimeoutError(TrireelError):
    """The job took longer than its own `timeout_s`."""

    code = "job_timeout"


class ExportError(TrireelError):
    """A model could not be turned into a served version."""

    code = "export_failed"


class CertificateFailedError(ExportError):
    """The graph does not agree with its source network; nothing was published."""

    code = "certificate_failed"
