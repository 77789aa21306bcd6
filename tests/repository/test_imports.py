"""What is expensive to import stays out of the programs that do not need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.needs import ROOT


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("orchestrator.formats.format_table", {"pyarrow"}),
        ("orchestrator.web.server", {"cv2", "av", "pyarrow", "alembic", "rich.progress", "redis"}),
        # They come with the extra `scale`.
        ("orchestrator.bootstrap", {"celery", "kombu", "redis", "psycopg"}),
        ("orchestrator.video.decoder_parent", {"litestar", "sqlalchemy", "grpc", "pyarrow", "structlog"}),
    ],
)
def test_a_module_does_without(module: str, unwanted: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted({unwanted!r} & set(sys.modules)))"
    imported = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert imported.stdout.split() == []
