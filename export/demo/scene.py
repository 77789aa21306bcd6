"""Scenes of moving shapes, drawn frame by frame, with exact truth. A scene is a pure function of its seed.

Circles, squares and triangles turn, grow and bounce over a panning, noisy texture, under changing light, and hide
behind each other and behind bars. The truth of a frame is the box of what can be seen of each shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

CLASS_NAMES: Final = ("circle", "square", "triangle")
# A shape of which less can be seen is not in the truth: nobody could name it.
LEAST_VISIBLE: Final = 0.5
LEAST_SIDE_PX: Final = 16
# Coordinates are drawn with 4 bits of fraction, so motion is smooth.
FRACTION_BITS: Final = 4
BAR: Final = -1
BACKGROUND: Final = -1
PAN_MARGIN_PX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A shape, or a bar that hides shapes; later items lie on top.

    kind: class id, or BAR. size_px: radius of the outline's circle. colour: RGB float32 (3,), 0..255. start_px: x, y.
    velocity: px/s. angle, spin: rad, rad/s. swell: part of the size by which it grows and shrinks. edge: 0..1, how
    dark its rim is.
    """

    kind: int
    size_px: float
    colour: NDArray[np.float32]
    start_px: NDArray[np.float64]
    velocity: NDArray[np.float64]
    angle: float
    spin: float
    swell: float
    swell_period_s: float
    edge: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """backdrop: float32 (height + 2 margins, width + 2 margins, 3), 0..255, larger than a frame by what it pans."""

    seed: int
    width_px: int
    height_px: int
    backdrop: NDArray[np.float32]
    pan_velocity: NDArray[np.float64]
    items: tuple[Item, ...]
    noise: float
    light_swing: float
    light_period_s: float
    light_slope: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """What can be seen in one frame: boxes_xyxy float32 (K, 4) px, class_ids and object_ids int16 (K,)."""

    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    object_ids: NDArray[np.int16]


def build_scene(seed: int, *, width_px: int = 640, height_px: int = 360) -> Scene:
    rng = np.random.default_rng(seed)
    backdrop = _backdrop(rng, width_px + 2 * PAN_MARGIN_PX, height_px + 2 * PAN_MARGIN_PX)
    kinds = [*rng.integers(0, len(CLASS_NAMES), rng.integers(3, 9)), *[BAR] * rng.integers(0, 3)]
    rng.shuffle(kinds)
    mean_colour = backdrop.mean(axis=(0, 1))
    return Scene(
        seed=seed,
        width_px=width_px,
        height_px=height_px,
        backdrop=backdrop,
        pan_velocity=rng.uniform(-25, 25, 2),
        items=tuple(_item(rng, int(kind), (width_px, height_px), mean_colour) for kind in kinds),
        noise=float(rng.uniform(2, 12)),
        light_swing=float(rng.uniform(0, 0.35)),
        light_period_s=float(rng.uniform(2, 8)),
        light_slope=_slope(rng, width_px, height_px),
    )


def draw_frame(scene: Scene, time_s: float) -> tuple[NDArray[np.uint8], FrameTruth]:
    """The frame at `time_s`, uint8 (height, width, 3) RGB, and its truth. The same arguments give the same pixels."""
    left, top = np.rint(_bounced(PAN_MARGIN_PX + scene.pan_velocity * time_s, 0, 2 * PAN_MARGIN_PX)).astype(int)
    canvas = scene.backdrop[top : top + scene.height_px, left : left + scene.width_px].copy()
    owner = np.full(canvas.shape[:2], BACKGROUND, dtype=np.int16)
    areas = [_paint(canvas, owner, number, item, time_s) for number, item in enumerate(scene.items)]
    light = 1 + scene.light_swing * math.sin(2 * math.pi * time_s / scene.light_period_s)
    canvas *= scene.light_slope * np.float32(light)
    grain = np.random.default_rng((scene.seed, round(time_s * 1000)))
    canvas += grain.standard_normal(canvas.shape, dtype=np.float32) * np.float32(scene.noise)
    return np.clip(canvas, 0, 255).astype(np.uint8), _truth(scene.items, owner, areas)


def _backdrop(rng: np.random.Generator, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Noise of several grains, strokes across it, around a colour of its own."""
    backdrop = np.full((height_px, width_px, 3), rng.uniform(50, 200, 3), dtype=np.float32)
    for cells, strength in ((4, 35), (12, 22), (48, 14)):
        grain = rng.standard_normal((cells, cells * 2, 3), dtype=np.float32)
        grain *= np.float32(rng.uniform(0.3, 1) * strength)
        backdrop += cv2.resize(grain, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 6)):
        ends = rng.uniform((0, 0), (width_px, height_px), (2, 2)).astype(int)
        colour = rng.uniform(30, 225, 3)
        cv2.line(backdrop, ends[0].tolist(), ends[1].tolist(), colour.tolist(), int(rng.integers(1, 5)), cv2.LINE_AA)
    return np.clip(backdrop, 0, 255)


def _slope(rng: np.random.Generator, width_px: int, height_px: int) -> NDArray[np.float32]:
    """Light that falls from one side: float32 (height, width, 1) around 1."""
    across, down = rng.uniform(-0.25, 0.25, 2)
    columns = np.linspace(-across, across, width_px, dtype=np.float32)
    rows = np.linspace(-down, down, height_px, dtype=np.float32)
    return (1 + rows[:, None] + columns[None, :])[..., None]


def _item(rng: np.random.Generator, kind: int, frame_px: tuple[int, int], mean_colour: NDArray[np.float32]) -> Item:
    colour = rng.uniform(0, 255, 3).astype(np.float32)
    # A colour that disappears in the background would be truth that nobody can see.
    while np.abs(colour - mean_colour).sum() < 130:
        colour = rng.uniform(0, 255, 3).astype(np.float32)
    return Item(
        kind=kind,
        size_px=min(frame_px) * float(np.exp(rng.uniform(np.log(0.07), np.log(0.22)))),
        colour=colour,
        start_px=rng.uniform((0, 0), frame_px),
        velocity=rng.uniform(-90, 90, 2) if kind != BAR else rng.uniform(-20, 20, 2),
        angle=float(rng.uniform(0, 2 * math.pi)),
        spin=float(rng.uniform(-1.2, 1.2)) if kind != BAR else 0.0,
        swell=float(rng.uniform(0, 0.35)),
        swell_period_s=float(rng.uniform(2, 7)),
        edge=float(rng.choice([0.0, rng.uniform(0.2, 0.8)])),
    )


def _bounced(place: NDArray[np.float64], low: float, high: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """A point that moves straight and turns back at the walls `low` and `high`."""
    span = high - low
    return np.asarray(low + span - np.abs((place - low) % (2 * span) - span))


def _paint(canvas: NDArray[np.float32], owner: NDArray[np.int16], number: int, item: Item, time_s: float) -> float:
    """Draw an item onto `canvas` (H, W, 3) and `owner` (H, W); returns its whole area in px, hidden parts included."""
    height, width = owner.shape
    outline = _outline(item, time_s, width, height)
    low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height))
    area = abs(float(cv2.contourArea(outline.astype(np.float32))))
    if (high <= low).any():
        return area
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), dtype=np.uint8)
    points = np.rint((outline - low) * (1 << FRACTION_BITS)).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, FRACTION_BITS)
    cover = (mask.astype(np.float32) / 255)[..., None]
    canvas[window] += (item.colour - canvas[window]) * cover
    if item.edge:
        rim = np.zeros_like(mask)
        cv2.polylines(rim, [points], isClosed=True, color=255, thickness=3, lineType=cv2.LINE_AA, shift=FRACTION_BITS)
        canvas[window] *= 1 - (rim.astype(np.float32) / 255)[..., None] * cover * np.float32(item.edge)
    owner[window][mask > 127] = number
    return area


def _outline(item: Item, time_s: float, width_px: int, height_px: int) -> NDArray[np.float64]:
    """Corners of the item at `time_s`, (P, 2) px; a circle is a polygon of 48."""
    size = item.size_px * (1 + item.swell * math.sin(2 * math.pi * time_s / item.swell_period_s))
    centre = _bounced(item.start_px + item.velocity * time_s, 0, np.array([width_px, height_px], dtype=np.float64))
    if item.kind == BAR:
        return centre + _turned(np.array([[-2000, -1], [2000, -1], [2000, 1], [-2000, 1]]) * [1, size / 4], item.angle)
    corners = {0: 48, 1: 4, 2: 3}[item.kind]
    turns = np.arange(corners) * (2 * math.pi / corners) + item.angle + item.spin * time_s
    return np.asarray(centre + size * np.stack([np.cos(turns), np.sin(turns)], axis=1))


def _turned(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))


def _truth(items: tuple[Item, ...], owner: NDArray[np.int16], areas: list[float]) -> FrameTruth:
    boxes: list[list[float]] = []
    numbers: list[int] = []
    for number, item in enumerate(items):
        rows, columns = np.nonzero(owner == number) if item.kind != BAR else (np.empty(0), np.empty(0))
        if len(rows) < LEAST_VISIBLE * areas[number] or not len(rows):
            continue
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        if min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE_PX:
            boxes.append(box)
            numbers.append(number)
    return FrameTruth(
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        class_ids=np.array([items[number].kind for number in numbers], dtype=np.int16),
        object_ids=np.array(numbers, dtype=np.int16),
    )
