"""Makes the frames that a certificate is based on: noise, crowded mosaics of pictures, and the user's own frames.

Pictures are Ultralytics' two, which come with the package, unless the user gives a folder or a video (`FRAMES=`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from export.triton_config import EMBEDDED, USUAL_SOURCE_H_PX, USUAL_SOURCE_W_PX
from orchestrator.core.letterbox import fit_letterbox, letterbox_into
from orchestrator.errors import ExportError

Picture = NDArray[np.uint8]

# Every position of the largest batch that the embedded Triton makes.
BATCH: Final = EMBEDDED.max_batch
# Tiles along one side of a mosaic; more tiles make smaller and more crowded things.
TILES: Final = (1, 2, 2, 3, 3, 4, 4, 5)
MOST_PICTURES: Final = 32
PICTURE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One batch: frames uint8 (N, H, W, 3), letterboxed, all of one size; name says what they show."""

    name: str
    frames: NDArray[np.uint8]


def gather_evidence(pictures: list[Picture], *, imgsz: int, stride: int) -> list[Evidence]:
    """Batches of mosaics in the usual and the square shape, of the pictures themselves, and of noise.

    pictures: uint8 (h, w, 3) RGB of any sizes, at least one.
    """
    rng = np.random.default_rng(0)
    usual = (USUAL_SOURCE_W_PX, USUAL_SOURCE_H_PX)
    square = (USUAL_SOURCE_H_PX, USUAL_SOURCE_H_PX)
    batches = [
        Evidence(
            f"mosaics, {name}", _letterboxed([_mosaic(pictures, size, tiles, rng) for tiles in TILES], imgsz, stride)
        )
        for name, size in (("16:9", usual), ("square", square))
    ]
    batches.append(Evidence("noise", rng.integers(0, 256, (2, *batches[0].frames.shape[1:]), dtype=np.uint8)))
    for shape in sorted({picture.shape for picture in pictures}):
        alike = [picture for picture in pictures if picture.shape == shape]
        for start in range(0, len(alike), BATCH):
            batches.append(Evidence("pictures", _letterboxed(alike[start : start + BATCH], imgsz, stride)))
    return batches


def load_pictures(source: Path) -> list[Picture]:
    """At most 32 pictures, evenly spaced, from a folder of images or a video. Raises ExportError if there are none."""
    found = _from_folder(source) if source.is_dir() else _from_video(source)
    if not found:
        raise ExportError(f"{source} holds no image and no frame that can be read")
    return found


def _from_folder(folder: Path) -> list[Picture]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    pictures = []
    for number in _spread(len(paths)):
        picture = cv2.imread(str(paths[number]), cv2.IMREAD_COLOR)
        if picture is None:
            raise ExportError(f"{paths[number]} is not an image that can be read")
        pictures.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8))
    return pictures


def _from_video(path: Path) -> list[Picture]:
    try:
        with av.open(str(path)) as container:
            # Two passes: which frames are wanted is known only when all are counted, and all do not fit in memory.
            wanted = set(_spread(sum(1 for _ in container.decode(video=0))))
        with av.open(str(path)) as container:
            frames = enumerate(container.decode(video=0))
            return [_rgb(frame) for number, frame in frames if number in wanted]
    except (av.FFmpegError, IndexError) as exc:
        raise ExportError(f"{path} is not a video that can be read: {exc}") from exc


def _rgb(frame: av.VideoFrame) -> Picture:
    return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def _spread(count: int) -> list[int]:
    """At most MOST_PICTURES numbers under `count`, evenly spaced."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, MOST_PICTURES))}) if count else []


def _mosaic(pictures: list[Picture], size_px: tuple[int, int], tiles: int, rng: np.random.Generator) -> Picture:
    """A frame of `size_px` (width, height) covered by tiles x tiles pictures, each cropped and resized anew."""
    width, height = size_px[0] // tiles, size_px[1] // tiles
    canvas = np.full((size_px[1], size_px[0], 3), 114, dtype=np.uint8)
    for row in range(tiles):
        for column in range(tiles):
            picture = pictures[rng.integers(len(pictures))]
            cut_y, cut_x = (int(rng.integers(0, max(side // 4, 1))) for side in picture.shape[:2])
            tile = cv2.resize(picture[cut_y:, cut_x:], (width, height), interpolation=cv2.INTER_AREA)
            if rng.random() < 0.5:
                tile = tile[:, ::-1]
            canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return canvas


def _letterboxed(pictures: list[Picture], imgsz: int, stride: int) -> NDArray[np.uint8]:
    """Pictures of one size as one batch (N, H, W, 3)."""
    height, width = pictures[0].shape[:2]
    box = fit_letterbox(width, height, imgsz=imgsz, stride=stride)
    frames = np.empty((len(pictures), box.model_h_px, box.model_w_px, 3), dtype=np.uint8)
    for frame, picture in zip(frames, pictures, strict=True):
        letterbox_into(frame, picture, box)
    return frames
