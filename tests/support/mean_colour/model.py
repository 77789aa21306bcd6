"""A model for tests, run by Triton's Python backend: each frame gets one candidate that tells its mean colour.

The box spans the frame, the confidence is the mean of red / 255, the class id the mean of green; blue is not looked at.
The first pixel of a request's first frame may ask for trouble.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import triton_python_backend_utils as pb_utils

SLOW = (1, 2, 3)
FAILING = (3, 2, 1)
DYING = (2, 3, 1)
SLOW_S = 1.0


class TritonPythonModel:
    def execute(self, requests):
        return [answer_to(pb_utils.get_input_tensor_by_name(request, "frames").as_numpy()) for request in requests]


def answer_to(frames):
    asked = tuple(int(value) for value in frames[0, 0, 0])
    if asked == FAILING:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("a frame asked to fail"))
    if asked == DYING:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked == SLOW:
        time.sleep(SLOW_S)
    return pb_utils.InferenceResponse([pb_utils.Tensor("candidates", mean_colours(frames))])


def mean_colours(frames):
    """frames: uint8 (N, H, W, 3). Returns float32 (N, 300, 6)."""
    _, height, width, _ = frames.shape
    means = frames.mean(axis=(1, 2))
    candidates = np.zeros((len(frames), 300, 6), np.float32)
    candidates[:, 0, 2:4] = width, height
    candidates[:, 0, 4] = means[:, 0] / 255
    candidates[:, 0, 5] = means[:, 1].round()
    return candidates
