"""What somebody writes with Ultralytics and an exported ONNX: decode, letterbox, infer, suppress, in one process.

Runs in the export's environment. `YOLO.predict()` fails in its warm-up beside the build of PyTorch that this
environment has, so its steps are called one by one, with Ultralytics' own functions and ONNX Runtime's own defaults.
Reads a line `FRAMES` from standard input, works so many, answers with a line of JSON, until the input ends.

    python ultralytics_loop.py GRAPH VIDEO IMGSZ STRIDE

GRAPH: of a published version, from which the network alone is taken.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import cv2
import numpy as np
import onnx.utils
import onnxruntime
import torch
from onnx.shape_inference import infer_shapes
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes

CONFIDENCE, IOU, MOST_BOXES = 0.25, 0.7, 300


def main(arguments: list[str]) -> None:
    graph, video = arguments[:2]
    imgsz, stride = (int(text) for text in arguments[2:])
    network = onnx.utils.Extractor(infer_shapes(onnx.load(graph))).extract_model(["prepared"], ["network.output0"])
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    letterbox = LetterBox((imgsz, imgsz), auto=True, stride=stride)
    infer_frames(session, letterbox, video, 8)
    for line in sys.stdin:
        began_s, cpu_began_s = time.perf_counter(), _cpu_s()
        done = infer_frames(session, letterbox, video, int(line))
        answer = {"frames": done, "wall_s": time.perf_counter() - began_s, "cpu_s": _cpu_s() - cpu_began_s}
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


def infer_frames(session: onnxruntime.InferenceSession, letterbox: LetterBox, video: str, frames: int) -> int:
    """The first `frames` of the video; the number that there were."""
    capture = cv2.VideoCapture(video)
    done = 0
    name = session.get_inputs()[0].name
    while done < frames:
        is_read, frame = capture.read()
        if not is_read:
            break
        image = np.ascontiguousarray(letterbox(image=frame)[..., ::-1].transpose(2, 0, 1))
        tensor = torch.from_numpy(image).float()[None] / 255
        (raw,) = session.run(None, {name: tensor.numpy()})
        (boxes,) = non_max_suppression(torch.from_numpy(raw), CONFIDENCE, IOU, max_det=MOST_BOXES)
        scale_boxes(tensor.shape[2:], boxes[:, :4], frame.shape)
        done += 1
    capture.release()
    return done


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
