"""What can be known of deploy/Dockerfile without a Docker engine."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch

import pytest

from tests.support.needs import ROOT

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LETS_THROUGH = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def copied_from_the_checkout() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    return [source.rstrip("/") for line in lines for source in shlex.split(line)[:-1]]


def test_every_stage_starts_from_a_pinned_image() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert images
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+-[a-z-]+$", image)] == []


def test_it_runs_as_nobody_special() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user.split(":")[0] not in ("0", "root")


@pytest.mark.parametrize("source", copied_from_the_checkout())
def test_what_it_copies_is_there_and_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert any(fnmatch(source, pattern) for pattern in LETS_THROUGH)


def test_the_build_context_holds_nothing_that_is_not_copied() -> None:
    assert sorted(LETS_THROUGH) == sorted(copied_from_the_checkout())
