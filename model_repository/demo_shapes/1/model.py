"""Serves one model version through ONNX Runtime inside Triton's Python backend.

Publishing copies this file into the version folder as `model.py`. It runs in the environment of the embedded Triton
(numpy below 2, onnxruntime), is imported by Triton's Python stub, and imports nothing of this project.

On a CPU the frames of a batch run side by side, each on threads of its own: two frames on a core each take 57 to 62 ms
of CPU time, one after the other on both cores 75 to 81 ms, since threads that share a frame wait for each other at
every layer (YOLO11n, 384x640). A GPU takes a batch at once.

Parameters it reads from the configuration: `runs_side_by_side` (0: one for each CPU this process may use, at most the
largest batch), `intra_op_threads` of each (0: the CPUs divided by those), `execution_provider` (`auto`, `cpu`, `cuda`)
and the version's description `trireel.<version>`.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class TritonPythonModel:
    """One instance: a session of its own, one batch at a time, whose frames run side by side where that is faster."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session. Whatever raises here fails the load, with its message in Triton's log and answer."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        description = json.loads(parameters[f"trireel.{args['model_version']}"])
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]
        self._stride = int(description["stride"])
        self._imgsz = int(description["imgsz"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        provider = _provider(parameters["execution_provider"])
        runs, threads = _runs_and_threads(provider, parameters, largest_batch=int(config["max_batch_size"]))
        self._session = _open_session(os.path.join(folder, "model.onnx"), provider, threads=threads)
        self._pool = ThreadPoolExecutor(runs) if runs > 1 else None
        pb_utils.Logger.log_info(
            f"{args['model_name']}:{args['model_version']} runs on {provider}: "
            f"{runs} side by side, of {threads} threads each"
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests whose frames have one size, as Triton's batcher guarantees; one answer each, in order."""
        frames = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        if (refusal := self._refusal(frames)) is not None:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(refusal)) for _ in requests]
        candidates = self._infer(frames)
        count = sum(len(part) for part in frames)
        if len(candidates) != count:
            raise pb_utils.TritonModelException(f"{count} frames gave {len(candidates)} rows of candidates")
        ends = np.cumsum([len(part) for part in frames])
        return [
            pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(self._output, rows)])
            for rows in np.split(candidates, ends[:-1])
        ]

    def finalize(self) -> None:
        """Let go of the threads and the session's memory."""
        if self._pool is not None:
            self._pool.shutdown()
        del self._session

    def _infer(self, frames: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Candidates (N, 300, 6) of all frames, in order."""
        if self._pool is None:
            return self._run(frames[0] if len(frames) == 1 else np.concatenate(frames))
        single = [part[number : number + 1] for part in frames for number in range(len(part))]
        return np.concatenate(list(self._pool.map(self._run, single)))

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        (candidates,) = self._session.run([self._output], {self._input: batch})
        return np.asarray(candidates)

    def _refusal(self, frames: list[NDArray[np.uint8]]) -> str | None:
        """Why these frames cannot be inferred; None if they can."""
        shapes = {part.shape[1:] for part in frames}
        if len(shapes) != 1:
            return f"one batch holds frames of different sizes: {sorted(shapes)}"
        height, width, channels = shapes.pop()
        if frames[0].dtype != np.uint8 or channels != 3:
            return f"frames must be uint8 (N, H, W, 3), not {frames[0].dtype} with {channels} channels"
        if height % self._stride or width % self._stride or not 0 < max(height, width) <= self._imgsz:
            return (
                f"frames of {width}x{height} pixels; both sides must be multiples of {self._stride} "
                f"and at most {self._imgsz}"
            )
        return None


def _runs_and_threads(provider: str, parameters: dict[str, str], *, largest_batch: int) -> tuple[int, int]:
    """How many frames run side by side, and on how many threads each."""
    cores = len(os.sched_getaffinity(0))
    on_cpu = min(cores, largest_batch) if provider == PROVIDERS["cpu"] else 1
    runs = int(parameters["runs_side_by_side"]) or on_cpu
    return runs, int(parameters["intra_op_threads"]) or max(cores // runs, 1)


def _open_session(path: str, provider: str, *, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads take the CPU from the decoders while they wait for the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    # ONNX Runtime goes on with the CPU, silently, when CUDA or cuDNN cannot be loaded.
    if session.get_providers()[0] != provider:
        raise pb_utils.TritonModelException(
            f"{provider} was asked for, but ONNX Runtime runs on {session.get_providers()[0]}; "
            "check the CUDA and cuDNN libraries, or set the parameter execution_provider to cpu"
        )
    return session


def _provider(choice: str) -> str:
    """`auto` is CUDA where this ONNX Runtime was built with it."""
    if choice not in ("auto", *PROVIDERS):
        raise pb_utils.TritonModelException(f"execution_provider must be auto, cpu or cuda, not {choice}")
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    chosen = PROVIDERS["cuda" if has_cuda else "cpu"] if choice == "auto" else PROVIDERS[choice]
    if chosen == PROVIDERS["cuda"] and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    return chosen
