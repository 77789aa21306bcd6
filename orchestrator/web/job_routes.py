"""`/v1/jobs`: submit, list, look, cancel, retry, delete."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import ResponseHeader
from litestar.exceptions import ClientException
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter, JSONBody, QueryParameter
from structlog.contextvars import bind_contextvars

from orchestrator.core.states import JobState
from orchestrator.errors import NotSupportedError, RequestInvalidError
from orchestrator.web.error_map import problems
from orchestrator.web.injected import JobsCase
from orchestrator.web.job_schemas import JobAnswer, JobPage, SubmitJob
from orchestrator.web.paging import DEFAULT_PAGE_ITEMS, OWNER, Cursor, Limit, words_of
from orchestrator.web.path_parameters import JobId

AnyConnection: TypeAlias = ASGIConnection[Any, Any, Any, Any]
REPLAYED: Final = "Idempotency-Replayed"
SOURCES_TO_COME: Final = frozenset({"url", "path"})


async def check_body(connection: AnyConnection, _: BaseRouteHandler) -> None:
    """Name what is to come, before the body is told to lack a `video_id`. Raises NotSupportedError, ClientException."""
    if not isinstance(connection, Request):
        return
    try:
        body = msgspec.json.decode(await connection.body())
    except msgspec.MsgspecError:
        return  # reading it for the handler tells what is wrong
    except RecursionError as exc:
        raise ClientException("the body is nested too deeply; a submit is one flat object with a `view`") from exc
    if isinstance(body, dict) and SOURCES_TO_COME & body.keys():
        raise NotSupportedError(
            "sources by url or path are not supported yet; send the file to POST /v1/videos and give its video_id"
        )


class JobRoutes(Controller):
    path = "/v1/jobs"
    tags = ("jobs",)

    @post(
        operation_id="submitJob",
        summary="Submit a job",
        status_code=202,
        guards=[check_body],
        responses=problems(400, 404, 413, 422, 503),
        response_headers=[
            ResponseHeader(
                name=REPLAYED,
                description="`true` where an earlier submit with the same `Idempotency-Key` made the job.",
                documentation_only=True,
            )
        ],
    )
    async def submit_job(
        self,
        data: JSONBody[SubmitJob],
        jobs: JobsCase,
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(
                name="Idempotency-Key",
                description="1 to 255 visible ASCII characters. Sent again with the same body, it makes no second job.",
            ),
        ] = None,
    ) -> Response[JobAnswer]:
        """Answered at once; the work goes on in the background. `Location` names the job, `/events` follows it.

        Jobs that want the same frames of the same content from the same model version share one run, so a job
        whose run was already made is answered `succeeded`. An `Idempotency-Key` makes it safe to send a submit
        again: for at least 24 hours the same key and body are answered with the same job, as it is by then.
        """
        request, is_replayed = data.to_request(), False
        if idempotency_key is None:
            snapshot = await jobs.submit(request, owner=OWNER)
        else:
            snapshot, is_replayed = await jobs.submit_once(request, key=idempotency_key, owner=OWNER)
        job = JobAnswer.from_snapshot(snapshot)
        bind_contextvars(job_id=job.id)
        headers = {"Location": f"/v1/jobs/{job.id}"}
        return Response(job, headers={**headers, REPLAYED: "true"} if is_replayed else headers)

    @get(operation_id="listJobs", summary="List jobs", responses=problems(400, 422))
    async def list_jobs(
        self,
        jobs: JobsCase,
        states: Annotated[
            list[str] | None,
            QueryParameter(name="state", description="Only jobs in these states; repeated, or with commas."),
        ] = None,
        model: Annotated[
            str | None, QueryParameter(max_length=200, description="Only jobs of `name` or `name:version`.")
        ] = None,
        limit: Limit = DEFAULT_PAGE_ITEMS,
        cursor: Cursor = None,
    ) -> JobPage:
        """Newest first."""
        page = await jobs.page(limit=limit, cursor=cursor, states=states_of(words_of(states) or ()), model=model)
        return JobPage([JobAnswer.from_snapshot(snapshot) for snapshot in page.items], page.next_cursor)

    @get("/{job_id:str}", operation_id="getJob", summary="One job", responses=problems(400, 404))
    async def get_job(self, job_id: JobId, jobs: JobsCase) -> JobAnswer:
        """Its state, progress and ledger; 200 also for a failed job."""
        return JobAnswer.from_snapshot(await jobs.snapshot(job_id))

    @post(
        "/{job_id:str}/cancel",
        operation_id="cancelJob",
        summary="Cancel a job",
        status_code=200,
        responses=problems(400, 404),
    )
    async def cancel_job(self, job_id: JobId, jobs: JobsCase) -> JobAnswer:
        """Legal in every state, and twice. What is committed stays; a run that another job wants goes on."""
        return JobAnswer.from_snapshot(await jobs.cancel(job_id))

    @post(
        "/{job_id:str}/retry",
        operation_id="retryJob",
        summary="Retry a job",
        status_code=202,
        responses=problems(400, 404, 409),
    )
    async def retry_job(self, job_id: JobId, jobs: JobsCase) -> JobAnswer:
        """Queue a job again that failed or was cancelled, as its next `attempt`; other states are a `state_conflict`.

        What is committed is kept: the run goes on where it stopped. Its `timeout_s` counts anew.
        """
        return JobAnswer.from_snapshot(await jobs.retry(job_id))

    @delete("/{job_id:str}", operation_id="deleteJob", summary="Delete a job", responses=problems(400, 404))
    async def delete_job(self, job_id: JobId, jobs: JobsCase) -> None:
        """Legal in every state. Its rows, and files that no other job uses, are gone afterwards."""
        await jobs.remove(job_id)


def states_of(words: tuple[str, ...]) -> frozenset[JobState]:
    """Raises RequestInvalidError, naming the states there are."""
    known = {state.value: state for state in JobState}
    if unknown := [word for word in words if word not in known]:
        raise RequestInvalidError(f"there is no state {', '.join(unknown):.80}; states are {', '.join(known)}")
    return frozenset(known[word] for word in words)
