"""The model repository on disk: what is published there, and how a version gets in, whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from export.triton_config import render_configs
from orchestrator.core.contract import METADATA_FILE, ModelCard
from orchestrator.errors import ContractError, ExportError


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Keep other exports out of the repository, which is made if need be, until the end."""
    repository.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def published_cards(model_folder: Path) -> dict[int, ModelCard]:
    """The published versions, read from their own metadata. Raises ExportError if one cannot be read."""
    if not model_folder.is_dir():
        return {}
    versions = sorted(int(folder.name) for folder in model_folder.iterdir() if folder.name.isdecimal())
    return {version: _card_in(model_folder / str(version)) for version in versions}


def _card_in(version_folder: Path) -> ModelCard:
    try:
        metadata = json.loads((version_folder / METADATA_FILE).read_text())
        return ModelCard.from_json(json.dumps(metadata["card"]))
    except (OSError, ValueError, KeyError, TypeError, ContractError) as exc:
        raise ExportError(
            f"{version_folder} was not published by this program, so its configuration cannot be kept ({exc}); "
            "move it away or choose another name"
        ) from exc


def add_version(model_folder: Path, built: Path, card: ModelCard) -> int:
    """Copy a finished version folder in as the next version; returns its number. The repository must be `locked`.

    First the configurations, which Triton reads only when it is told to load, then the folder in one rename: at no
    moment is there a version that no configuration describes. Nothing is left behind when this fails.
    """
    cards = published_cards(model_folder)
    version = max(cards, default=0) + 1
    is_new = not model_folder.exists()
    arriving = model_folder / f".{version}.arriving"
    shutil.rmtree(arriving, ignore_errors=True)  # Left by an export that was killed.
    try:
        # Triton leaves compiled files of the Python it served the version with.
        shutil.copytree(built, arriving, ignore=shutil.ignore_patterns("__pycache__"))
        for path in arriving.iterdir():
            _sync(path)
        write_configs(model_folder, {**cards, version: card})
        arriving.rename(model_folder / str(version))
    except OSError as exc:
        shutil.rmtree(model_folder if is_new else arriving, ignore_errors=True)
        if cards:
            write_configs(model_folder, cards)
        raise ExportError(f"the version could not be written to {model_folder}: {exc}") from exc
    _sync(model_folder)
    return version


def write_configs(model_folder: Path, cards: Mapping[int, ModelCard]) -> None:
    """Write every configuration anew, each in one rename."""
    for path, text in render_configs(model_folder.name, cards).items():
        target = model_folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        arriving = target.with_name(f".{target.name}.arriving")
        arriving.write_text(text)
        _sync(arriving)
        arriving.replace(target)


def _sync(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
