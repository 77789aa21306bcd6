"""Files that are no detector's checkpoint are refused with a sentence, and run no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import SegmentationModel

from export.__main__ import main
from export.to_onnx import load_source
from orchestrator.errors import ExportError
from tests.export.detectors import IMGSZ, write_checkpoint


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self._mark,))


def refusal(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        load_source(path, None)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"GIF89a", pickle.dumps({"model": 1})], ids=["empty", "image", "pickle"])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert "is not a PyTorch checkpoint" in refusal(path)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], torch.zeros(3), {"model": torch.zeros(3)}])
def test_checkpoints_of_something_else_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert "is not an Ultralytics checkpoint" in refusal(path)


def test_a_cut_off_checkpoint_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "weights.pt", "yolov8n")
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cut off" in refusal(path)


def test_a_checkpoint_that_would_run_code_is_refused_before_it_does(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pt", tmp_path / "mark"
    torch.save({"model": Hostile(mark)}, path)
    assert "that can be read safely" in refusal(path)
    assert not mark.exists()


def test_networks_that_segment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": SegmentationModel("yolo11n-seg.yaml", ch=3, nc=3, verbose=False)}, path)
    assert "only detectors can be served" in refusal(path)


def test_an_imgsz_that_is_no_multiple_of_the_stride_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "weights.pt", "yolov8n")
    with pytest.raises(ExportError, match="multiple of the network's stride 32"):
        load_source(path, 100)
    assert load_source(path, None).imgsz == IMGSZ


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere.pt"), "model", "--repository", str(tmp_path / "models")]) == 1
    written = capsys.readouterr().err
    assert (
        written
        == f"export: there is no file {tmp_path / 'nowhere.pt'}; give the path of an Ultralytics checkpoint (.pt)\n"
    )
    assert not (tmp_path / "models").exists()
