"""One server for the suites that do not need settings of their own, on the quick model `mean_colour`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack, serving
from tests.support.triton import write_mean_colour

MAX_UPLOAD_BYTES = 4_000_000


@pytest.fixture(scope="session")
def quick_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    write_mean_colour(repository)
    return repository


@pytest.fixture(scope="session")
def stack(quick_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with serving(folder, model_repository=quick_repository, MAX_UPLOAD_BYTES=str(MAX_UPLOAD_BYTES)) as running:
        yield running
