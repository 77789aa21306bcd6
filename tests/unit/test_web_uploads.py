"""Uploads: both ways in, every way to be refused, and nothing left behind."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from orchestrator.errors import VideoUnreadableError
from orchestrator.testing.fake_reader import GeneratedVideo
from orchestrator.web.uploads import MAX_FILE_NAME, harmless_name
from tests.support.api import VIDEO, api_over, problem_in
from tests.support.web_process import WebProcess

BOUNDARY = "----trireel"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, content: bytes, *, file_name: str | None = None) -> bytes:
    shown = "" if file_name is None else f'; filename="{file_name}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture(scope="module")
def process() -> WebProcess:
    """For uploads that are refused: nothing of them may be left."""
    return WebProcess()


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/octet-stream", "video/mp4", "video/x-matroska; x=y", None),
        # What `curl --data-binary @clip.mp4` says.
        "application/x-www-form-urlencoded",
    ],
)
async def test_a_raw_body_is_kept_as_it_came(content_type: str | None) -> None:
    process = WebProcess()
    async with api_over(process) as client:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = await client.post("/v1/videos?filename=a.mp4", content=VIDEO, headers=headers)
        assert answer.status_code == 201
        assert list(process.stores.files.contents.values()) == [VIDEO]


async def test_the_file_of_a_form_is_kept_as_it_came_among_other_fields() -> None:
    process = WebProcess(max_upload_bytes=3_000_000)
    content = VIDEO + f"\r\n--{BOUNDARY[:-1]}".encode() + bytes(range(256)) * 8000
    async with api_over(process) as client:
        body = form(part("note", b"night"), part("file", content, file_name="b.mp4"), part("after", b"x" * 1000))
        answer = await client.post("/v1/videos", content=body, headers=FORM)
        assert (answer.status_code, answer.json()["file_name"]) == (201, "b.mp4")
        assert list(process.stores.files.contents.values()) == [content]


REFUSED_FORMS: dict[str, tuple[bytes, int, str]] = {
    "no_file": (form(part("note", b"night")), 422, "upload_invalid"),
    "file_under_another_name": (form(part("video", bytes(100_000), file_name="a.mp4")), 422, "upload_invalid"),
    "two_files": (form(part("file", VIDEO), part("file", VIDEO)), 422, "upload_invalid"),
    "endless_text": (form(part("file", VIDEO), part("note", bytes(100_000))), 422, "upload_invalid"),
    "too_many_parts": (form(*[part(f"field{n}", b"") for n in range(50)]), 422, "upload_invalid"),
    "no_end": (part("file", VIDEO), 422, "upload_invalid"),
    "no_form": (b"VIDEO without any boundary", 422, "upload_invalid"),
    "huge_header": (form(part("f" * 100_000, VIDEO)), 422, "upload_invalid"),
    "empty_file": (form(part("file", b"")), 422, "upload_empty"),
    "file_over_the_limit": (form(part("file", VIDEO + bytes(10_000))), 413, "upload_too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), REFUSED_FORMS.values(), ids=REFUSED_FORMS)
async def test_a_bad_form_is_refused_and_nothing_is_kept(
    process: WebProcess, body: bytes, status: int, code: str
) -> None:
    async with api_over(process) as client:
        answer = await client.post("/v1/videos", content=body, headers=FORM)
        assert problem_in(answer, status=status)["code"] == code
        assert (process.stores.files.contents, process.uploads.now) == ({}, 0)


REFUSED_BODIES: dict[str, tuple[bytes, Mapping[str, str], int, str]] = {
    "form_without_boundary": (VIDEO, {"Content-Type": "multipart/form-data"}, 422, "upload_invalid"),
    "empty": (b"", {}, 422, "upload_empty"),
    "announced_over_the_limit": (bytes(10_001), {}, 413, "upload_too_large"),
    "length_that_is_none": (VIDEO, {"Content-Length": "many"}, 400, "request_malformed"),
}


@pytest.mark.parametrize(("body", "headers", "status", "code"), REFUSED_BODIES.values(), ids=REFUSED_BODIES)
async def test_a_bad_body_is_refused_and_nothing_is_kept(
    process: WebProcess, body: bytes, headers: Mapping[str, str], status: int, code: str
) -> None:
    async with api_over(process) as client:
        answer = await client.post("/v1/videos", content=body, headers=headers)
        assert problem_in(answer, status=status)["code"] == code
        assert (process.stores.files.contents, process.uploads.now) == ({}, 0)


@pytest.mark.parametrize(
    ("body", "headers"), [(b"hello", {}), (form(part("file", b"hello")), FORM)], ids=["raw", "form"]
)
async def test_what_no_decoder_opens_is_refused_and_nothing_is_kept(body: bytes, headers: Mapping[str, str]) -> None:
    process = WebProcess(video=GeneratedVideo(error=VideoUnreadableError("no demuxer opens this file")))
    async with api_over(process) as client:
        answer = await client.post("/v1/videos", content=body, headers=headers)
        assert problem_in(answer, status=422)["code"] == "video_unreadable"
        assert (process.stores.files.contents, process.uploads.now) == ({}, 0)


async def test_only_uploads_may_be_large() -> None:
    process = WebProcess(max_upload_bytes=20_000_000)
    async with api_over(process) as client:
        large = b"VIDEO" + bytes(12_000_000)
        assert (await client.post("/v1/videos", content=large)).status_code == 201
        answer = await client.post("/v1/jobs", content=b" " * 2_000_000, headers={"Content-Type": "application/json"})
        assert problem_in(answer, status=413)["code"] == "body_too_large"


NAMES = {
    "../../etc/passwd": "passwd",
    "C:\\videos\\a.mp4": "a.mp4",
    "a\r\nSet-Cookie: x.mp4": "aSet-Cookie: x.mp4",
    "\x1b[31mred\x00.mp4": "[31mred.mp4",
    "\u202egpj.mp4": "gpj.mp4",
    "Straßenkreuzung 🚗.mp4": "Straßenkreuzung 🚗.mp4",
    "..": "..",
    "/": "upload",
    "": "upload",
    "x" * 4096 + ".mp4": "x" * (MAX_FILE_NAME - 4) + ".mp4",
}


@pytest.mark.parametrize(("given", "kept"), NAMES.items())
def test_a_file_name_is_made_harmless(given: str, kept: str) -> None:
    assert harmless_name(given) == kept
