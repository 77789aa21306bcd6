"""The client's answers, the server's, and the fake server's documents are of the same members."""

from __future__ import annotations

import json

import msgspec
import pytest

from orchestrator.client import answers
from orchestrator.client.calls import SubmitJob, ViewQuery
from orchestrator.formats import json_text, result_head, rows
from orchestrator.web import job_schemas, model_schemas, schemas
from tests.support import api_documents as documents

# The client's answer and the server's.
PAIRS = (
    (answers.FailureAnswer, schemas.FailureAnswer),
    (answers.VideoAnswer, schemas.VideoAnswer),
    (answers.JobAnswer, job_schemas.JobAnswer),
    (answers.JobModelAnswer, result_head.ModelName),
    (answers.ViewAnswer, result_head.ViewAnswer),
    (answers.ParamsAnswer, job_schemas.JobParams),
    (answers.ProgressAnswer, job_schemas.ProgressAnswer),
    (answers.LedgerAnswer, job_schemas.LedgerAnswer),
    (answers.TimingsAnswer, job_schemas.TimingsAnswer),
    (answers.TimelineAnswer, schemas.TimelineAnswer),
    (answers.BucketAnswer, schemas.BucketAnswer),
    (answers.ModelAnswer, model_schemas.ModelAnswer),
    (answers.ModelVersionAnswer, model_schemas.ModelVersionAnswer),
    (answers.LimitsAnswer, model_schemas.LimitsAnswer),
    (answers.ReadinessAnswer, model_schemas.ReadinessAnswer),
    (answers.DetectionAnswer, rows.Detection),
    (answers.FrameAnswer, json_text.FrameLine),
    (SubmitJob, job_schemas.SubmitJob),
    (ViewQuery, job_schemas.ViewBody),
)
DOCUMENTS = (
    (answers.VideoAnswer, documents.video_json("vid_1", "clip.mp4", 3)),
    (answers.JobAnswer, documents.job_json("job_1", documents.video_json("vid_1", "clip.mp4", 3), "queued")),
    (answers.ModelAnswer, documents.model_json("shapes")),
    (answers.LimitsAnswer, documents.LIMITS),
    (answers.DetectionAnswer, documents.detection_json(0, "car", 0.5)),
)


def members_of(answer: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(answer)}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda answer: f"{answer.__module__}.{answer.__name__}")
def test_client_and_server_speak_of_the_same_members(ours: type[msgspec.Struct], theirs: type[msgspec.Struct]) -> None:
    assert members_of(ours) == members_of(theirs)


@pytest.mark.parametrize(("answer", "document"), DOCUMENTS, ids=lambda value: getattr(value, "__name__", "document"))
def test_the_fake_server_answers_whole_documents(answer: type[msgspec.Struct], document: documents.Json) -> None:
    assert set(document) == members_of(answer)
    msgspec.json.decode(json.dumps(document), type=answer)


def test_members_of_a_newer_server_are_ignored() -> None:
    document = {**documents.detection_json(0, "car", 0.5), "track_id": 7}
    assert msgspec.json.decode(json.dumps(document), type=answers.DetectionAnswer).class_name == "car"
