"""The commands against a server over real HTTP: what they print, write and exit with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.options import default_url
from orchestrator.cli.program import program
from orchestrator.client import DEFAULT_URL
from tests.support.api_documents import CLASS_NAMES, MODEL, frame_json, model_json
from tests.support.fake_api import FakeApi, fake_api


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as server:
        server.frames = [frame_json(0, ("car", 0.9), ("car", 0.5)), frame_json(1), frame_json(2, ("person", 0.7))]
        yield server


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a video")
    return path


def trireel(api: FakeApi, *arguments: str | Path) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], env={"TRIREEL_URL": api.url})


def test_run_prints_what_was_found_and_where_it_is(api: FakeApi, clip: Path) -> None:
    result = trireel(api, "run", clip, "--model", MODEL)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["4", "frames", "inferred,", "0", "failed,", "0", "not", "sampled"]
    assert lines[1] == ["class", "detections", "frames", "first", "seen", "last", "seen", "best", "confidence"]
    assert lines[2:4] == [["car", "2", "1", "0:00", "0:00", "0.90"], ["person", "1", "1", "0:00", "0:00", "0.70"]]
    assert lines[4] == ["results:", "runs/clip-job_0.ndjson"]
    kept = [json.loads(line) for line in Path("runs/clip-job_0.ndjson").read_text().splitlines()]
    assert kept[1:] == api.frames
    assert "inferring 75.0 %" in result.stderr


def test_run_takes_the_only_model(api: FakeApi, clip: Path) -> None:
    assert trireel(api, "run", clip).exit_code == 0
    (submitted,) = [json.loads(request.body) for request in api.requests if request.path == "/v1/jobs"]
    assert submitted["model"] == MODEL


def test_run_lets_people_choose_among_models(api: FakeApi, clip: Path) -> None:
    api.models = [model_json("zebra"), model_json("ant"), model_json("off", is_ready=False)]
    result = trireel(api, "run", clip)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.splitlines()[-1].endswith("choose one with --model: ant, zebra")
    assert api.videos == {}


def test_run_passes_everything_on(api: FakeApi, clip: Path) -> None:
    asked = "--fps 2 --start 1 --end 5 --priority 9 --timeout 60 --tag a --tag b --conf 0.4 --iou 0.5 --max-det 7"
    assert trireel(api, "run", clip, *asked.split(), "--classes", "car, 1").exit_code == 0
    (submitted,) = [json.loads(request.body) for request in api.requests if request.path == "/v1/jobs"]
    assert submitted == {
        "video_id": "vid_0",
        "model": MODEL,
        "fps": 2.0,
        "start_s": 1.0,
        "end_s": 5.0,
        "view": {"conf": 0.4, "iou": 0.5, "classes": ["car", "1"], "max_det": 7},
        "priority": 9,
        "timeout_s": 60.0,
        "tags": ["a", "b"],
    }


def test_run_takes_a_video_that_is_there_already(api: FakeApi, clip: Path) -> None:
    trireel(api, "submit", clip)
    result = trireel(api, "run", "vid_0", "--output", "out/found.csv", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert Path("out/found.csv").read_text() == "as csv\n"
    assert "person" in result.stdout
    assert len(api.videos) == 1


def test_run_in_json_is_one_document(api: FakeApi, clip: Path) -> None:
    result = trireel(api, "run", clip, "--json")
    document = json.loads(result.stdout)
    assert document["job"]["state"] == "succeeded"
    assert document["results"] == "runs/clip-job_0.ndjson"
    assert [found["class_name"] for found in document["found"]] == ["car", "person"]


def test_run_says_so_when_nothing_was_found(api: FakeApi, clip: Path) -> None:
    api.frames = [frame_json(0)]
    assert "nothing was found" in trireel(api, "run", clip).stdout


@pytest.mark.parametrize(("ends_as", "code"), [("failed", "video_without_frames"), ("cancelled", "job_cancelled")])
def test_a_job_that_did_not_succeed_exits_with_1(api: FakeApi, clip: Path, ends_as: str, code: str) -> None:
    api.ends_as = ends_as
    result = trireel(api, "run", clip)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(f"trireel: {code}: job job_0 {ends_as}: ")
    assert not Path("runs").exists()


def test_run_in_json_prints_a_job_that_failed_and_why_as_json(api: FakeApi, clip: Path) -> None:
    api.ends_as = "failed"
    result = trireel(api, "run", clip, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["job"]["state"], document["results"]) == (1, "failed", None)
    error = json.loads(result.stderr.splitlines()[-1])
    assert (error["code"], error["message"]) == ("video_without_frames", "job job_0 failed: every frame failed")


JSON_ERRORS = {
    "refused": (("status", "job_9", "--json"), 4, "job_not_found"),
    "wrong_usage": (("run", "nowhere.mp4", "--json"), 2, "usage_invalid"),
    "wrong_option": (("list", "--limit", "0", "--json"), 2, "usage_invalid"),
    "bad_address": (("list", "--url", "nonsense", "--json"), 2, "settings_invalid"),
}


@pytest.mark.parametrize(("arguments", "exit_code", "code"), JSON_ERRORS.values(), ids=JSON_ERRORS)
def test_with_json_an_error_is_one_object_on_standard_error(
    api: FakeApi, arguments: tuple[str, ...], exit_code: int, code: str
) -> None:
    result = trireel(api, *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    error = json.loads(result.stderr)
    assert (set(error), error["code"]) == ({"code", "message"}, code)


def test_a_missing_file_is_wrong_usage(api: FakeApi, clip: Path) -> None:
    result = trireel(api, "run", "nowhere.mp4")
    assert result.exit_code == 2
    assert "nowhere.mp4" in result.stderr
    assert api.requests == []


def test_a_file_that_cannot_be_written_is_a_sentence(api: FakeApi, clip: Path) -> None:
    Path("runs").write_text("in the way")
    result = trireel(api, "run", clip)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "trireel: os_error: runs: File exists")


def test_submit_prints_the_id_only(api: FakeApi, clip: Path) -> None:
    result = trireel(api, "submit", clip)
    assert (result.exit_code, result.stdout) == (0, "job_0\n")
    assert json.loads(trireel(api, "submit", "vid_0", "--json").stdout)["id"] == "job_1"


def test_submit_with_a_key_makes_no_second_job(api: FakeApi, clip: Path) -> None:
    assert trireel(api, "submit", clip).exit_code == 0
    for _ in range(2):
        assert trireel(api, "submit", "vid_0", "--idempotency-key", "order-7").stdout == "job_1\n"
    result = trireel(api, "submit", clip, "--idempotency-key", "order-7")
    assert (result.exit_code, len(api.videos)) == (2, 1)


def test_a_refusal_is_one_sentence_with_its_code(api: FakeApi, clip: Path) -> None:
    result = trireel(api, "submit", clip, "--model", "nope")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.splitlines()[-1] == "trireel: model_not_found: there is no model nope"


def test_an_empty_list_says_so(api: FakeApi) -> None:
    assert trireel(api, "list").stdout == "no jobs\n"


def test_list_shows_jobs_and_cuts_no_id(api: FakeApi) -> None:
    for state in ("queued", "failed"):
        api.add_job("vid_with_a_name_of_some_length", state=state)
    lines = trireel(api, "list").stdout.splitlines()
    assert lines[0].split() == ["job", "state", "progress", "model", "video", "created"]
    assert lines[1].split()[:4] == ["job_0", "queued", "0.0", "%"]
    assert lines[2].split()[:2] == ["job_1", "failed"]
    chosen = trireel(api, "list", "--state", "failed", "--limit", "1", "--json").stdout
    assert [job["id"] for job in json.loads(chosen)["items"]] == ["job_1"]


def test_status_shows_the_error(api: FakeApi) -> None:
    job = api.add_job("vid_0", state="failed")
    job["error"] = {"code": "video_unreadable", "message": "no demuxer opens it [/red]"}
    result = trireel(api, "status", "job_0")
    assert "video_unreadable: no demuxer opens it [/red]" in result.stdout
    assert json.loads(trireel(api, "status", "job_0", "--json").stdout)["error"] == job["error"]


def test_an_unknown_job_exits_with_4(api: FakeApi) -> None:
    for command in ("status", "watch", "cancel", "results"):
        result = trireel(api, command, "job_9")
        assert (result.exit_code, result.stdout) == (4, ""), command
        assert result.stderr == "trireel: job_not_found: there is no job_9\n"


def test_watch_follows_to_the_end(api: FakeApi) -> None:
    api.add_job("vid_0")
    result = trireel(api, "watch", "job_0")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "queued",
        "running",
        "inferring 25.0 % 1/4 frames, 12.5 fps, ETA 0:03",
        "inferring 75.0 % 3/4 frames, 12.5 fps, ETA 0:03",
        "succeeded",
        "done 100.0 % 4/4 frames, 12.5 fps, ETA 0:03",
        "job job_0 succeeded",
    ]


def test_watch_in_json_is_a_line_an_event(api: FakeApi) -> None:
    api.ends_as = "failed"
    api.add_job("vid_0")
    result = trireel(api, "watch", "job_0", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [log.kind for log in api.events["job_0"]]
    assert {tuple(event) for event in events} == {("event", "id", "data")}
    assert (result.exit_code, events[-1]["data"]["state"]) == (1, "failed")


def test_cancel_tells_the_state(api: FakeApi) -> None:
    api.add_job("vid_0")
    assert trireel(api, "cancel", "job_0").stdout == "job job_0 cancelled\n"
    assert json.loads(trireel(api, "cancel", "job_0", "--json").stdout)["is_terminal"]


def test_retry_queues_a_job_that_ended_badly(api: FakeApi) -> None:
    api.add_job("vid_0", state="failed")
    assert trireel(api, "retry", "job_0").stdout == "job job_0 queued\n"
    result = trireel(api, "retry", "job_0")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (4, "trireel: state_conflict: job job_0 is queued")
    api.add_job("vid_0", state="cancelled")
    assert json.loads(trireel(api, "retry", "job_1", "--json").stdout)["attempt"] == 2


def test_results_go_to_standard_output_or_a_file(api: FakeApi, clip: Path) -> None:
    api.add_job("vid_0")
    assert len(trireel(api, "results", "job_0").stdout.splitlines()) == 4
    assert trireel(api, "results", "job_0", "--json").stdout == "as json\n"
    written = trireel(
        api, "results", "job_0", "--format", "csv", "--conf", "0.4", "--classes", "car", "--output", "a.csv"
    )
    assert (written.stdout, Path("a.csv").read_text()) == ("a.csv\n", "as csv\n")
    assert api.requests[-1].query == {"format": "csv", "conf": "0.4", "classes": "car"}
    described = trireel(api, "results", "job_0", "--output", "b.ndjson", "--json", "--from-frame", "1", "--follow")
    assert json.loads(described.stdout)["size_bytes"] == Path("b.ndjson").stat().st_size
    assert api.requests[-1].query == {"format": "ndjson", "from_frame": "1", "follow": "1"}


def test_a_refused_view_leaves_no_file(api: FakeApi, clip: Path) -> None:
    api.add_job("vid_0")
    Path("kept.csv").write_text("old")
    result = trireel(api, "results", "job_0", "--conf", "0.01", "--output", "kept.csv")
    assert result.exit_code == 4
    assert (Path("kept.csv").read_text(), sorted(path.name for path in clip.parent.iterdir())) == (
        "old",
        ["clip.mp4", "kept.csv"],
    )


def test_models_show_state_classes_and_certificate(api: FakeApi) -> None:
    api.models = [model_json(MODEL), model_json("other", is_ready=False)]
    lines = trireel(api, "models").stdout.splitlines()
    assert lines[1].split() == [MODEL, "1", "ready", "2", "passed"]
    assert "not ready: it is loading" in lines[2]
    assert json.loads(trireel(api, "models", "--json").stdout)["items"][0]["versions"][0]["class_names"] == CLASS_NAMES


def test_no_models_says_how_to_publish_one(api: FakeApi) -> None:
    api.models = []
    assert "make model" in trireel(api, "models").stdout


@pytest.mark.parametrize("command", ["list", "models", "status job_0", "watch job_0", "cancel job_0", "results job_0"])
def test_no_server_exits_with_3_and_says_how_to_start_one(command: str) -> None:
    with fake_api() as gone:
        pass
    result = trireel(gone, *command.split())
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("trireel: server_unreachable: no server answers at ")
    assert "`trireel serve` or `make serve`" in result.stderr


def test_a_bad_address_exits_with_2() -> None:
    result = CliRunner().invoke(program, ["list", "--url", "nonsense"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("trireel: settings_invalid: ")


def test_serve_in_json_tells_bad_settings_as_json() -> None:
    result = CliRunner().invoke(program, ["serve", "--json"], env={"TRIREEL_PORT": "many"})
    assert (result.exit_code, json.loads(result.stderr)["code"]) == (2, "settings_invalid")


def test_the_default_address_is_where_serve_listens() -> None:
    assert default_url() == DEFAULT_URL


def test_export_without_its_environment_says_what_makes_it(clip: Path) -> None:
    result = CliRunner().invoke(program, ["export", "--weights", "a.pt", "--help"])
    assert result.exit_code == 1
    assert result.stderr.startswith("trireel: export_failed: .venv-export is missing")
    assert "make model WEIGHTS=... NAME=..." in result.stderr
