"""The demo's scenes, their truth, and the measure of detections against it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from export.demo.clip import load_truth, write_clip, write_truth
from export.demo.evaluate import mean_average_precision
from export.demo.scene import BAR, FrameTruth, build_scene, draw_frame

CLIP = Path(__file__).resolve().parents[2] / "export" / "demo" / "clip.mp4"


def truth(*rows: tuple[float, float, float, float, int]) -> FrameTruth:
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return FrameTruth(table[:, :4], table[:, 4].astype(np.int16), np.arange(len(rows), dtype=np.int16))


def found(*rows: tuple[float, float, float, float, float, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def test_a_frame_is_a_function_of_seed_and_time() -> None:
    one, one_truth = draw_frame(build_scene(3), 1.5)
    again, again_truth = draw_frame(build_scene(3), 1.5)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one_truth.boxes_xyxy, again_truth.boxes_xyxy)
    assert not np.array_equal(one, draw_frame(build_scene(4), 1.5)[0])


@pytest.mark.parametrize("seed", range(6))
def test_truth_lies_in_the_frame_and_names_shapes_only(seed: int) -> None:
    scene = build_scene(seed, width_px=320, height_px=240)
    for time_s in (0.0, 7.0, 31.0):
        pixels, seen = draw_frame(scene, time_s)
        assert pixels.shape == (240, 320, 3)
        assert (seen.boxes_xyxy[:, :2] >= 0).all()
        assert (seen.boxes_xyxy[:, 2:] <= [320, 240]).all()
        assert (seen.boxes_xyxy[:, 2:] > seen.boxes_xyxy[:, :2]).all()
        assert [scene.items[number].kind for number in seen.object_ids] == seen.class_ids.tolist()
        assert BAR not in seen.class_ids


def test_shapes_move_by_little_from_frame_to_frame() -> None:
    scene = build_scene(8)
    truths = [draw_frame(scene, number / 25)[1] for number in range(10)]
    for before, after in pairwise(truths):
        shared, here, there = np.intersect1d(before.object_ids, after.object_ids, return_indices=True)
        assert len(shared)
        assert np.abs(before.boxes_xyxy[here] - after.boxes_xyxy[there]).max() < 20


def test_truth_survives_its_file(tmp_path: Path) -> None:
    scene = build_scene(5, width_px=160, height_px=96)
    truths = write_clip(tmp_path / "clip.mp4", scene, frame_count=3)
    write_truth(tmp_path / "clip.json", scene, truths)
    for written, read in zip(truths, load_truth(tmp_path / "clip.json"), strict=True):
        np.testing.assert_array_equal(written.boxes_xyxy, read.boxes_xyxy)
        np.testing.assert_array_equal(written.class_ids, read.class_ids)
        np.testing.assert_array_equal(written.object_ids, read.object_ids)


def test_the_committed_clip_lasts_ten_seconds_and_has_a_truth_for_each_frame() -> None:
    with av.open(str(CLIP)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert stream.average_rate == 25
    truths = load_truth(CLIP.with_suffix(".json"))
    assert frames == len(truths) == 250
    assert {int(number) for truth in truths for number in truth.class_ids} == {0, 1, 2}


def test_perfect_detections_have_precision_one() -> None:
    truths = [truth((0, 0, 10, 10, 0), (20, 0, 30, 10, 1)), truth((5, 5, 15, 15, 0))]
    perfect = [found((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 1)), found((5, 5, 15, 15, 0.7, 0))]
    assert mean_average_precision(perfect, truths) == pytest.approx(1)


def test_nothing_found_has_precision_zero() -> None:
    assert mean_average_precision([found()], [truth((0, 0, 10, 10, 0))]) == 0


def test_a_second_box_on_the_same_shape_is_wrong() -> None:
    twice = [found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 11, 0.8, 0), (20, 0, 30, 10, 0.7, 0))]
    # Hits at ranks 1 and 3 of 2 wanted: half the recall at precision 1, half at 2/3.
    assert mean_average_precision(twice, [truth((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))]) == pytest.approx(5 / 6)


def test_a_box_of_the_wrong_class_finds_nothing() -> None:
    assert mean_average_precision([found((0, 0, 10, 10, 0.9, 1))], [truth((0, 0, 10, 10, 0))]) == 0
