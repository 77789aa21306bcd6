"""ONNX Runtime and nothing else: the same graph, on frames that lie in memory, as many runs side by side as asked.

Runs in the embedded Triton's environment, for it must be the same ONNX Runtime. Reads a line `FRAMES` from standard
input, infers so many, answers with a line of JSON, and so on until the input ends.

    python onnx_alone.py GRAPH FRAMES_NPY cpu|gpu RUNS_SIDE_BY_SIDE THREADS_EACH BATCH
"""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}


def main(arguments: list[str]) -> None:
    graph, frames_path, device = arguments[:3]
    side_by_side, threads, batch = (int(text) for text in arguments[3:])
    # Mapped and read once, so that no page is fetched while the clock runs.
    frames = np.ascontiguousarray(np.load(frames_path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # As in the model that Triton serves: with spinning the other side would look better than it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device == "gpu":
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(graph, options, providers=[PROVIDERS[device]])
    if session.get_providers()[0] != PROVIDERS[device]:
        sys.exit(f"{PROVIDERS[device]} was asked for, but ONNX Runtime runs on {session.get_providers()[0]}")

    def infer(start: int) -> int:
        part = np.take(frames, range(start, start + batch), axis=0, mode="wrap")
        session.run(["candidates"], {"frames": part})
        return batch

    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(infer, range(0, 2 * side_by_side * batch, batch)))
        for line in sys.stdin:
            began_s, cpu_began_s = time.perf_counter(), _cpu_s()
            done = sum(pool.map(infer, range(0, int(line), batch)))
            answer = {"frames": done, "wall_s": time.perf_counter() - began_s, "cpu_s": _cpu_s() - cpu_began_s}
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
