"""Named threads for blocking work, owned by whoever opened them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import structlog

log = structlog.get_logger()

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Threads:
    """Runs blocking functions off the event loop, in the order in which they were asked for.

    A caller that is cancelled leaves at once; its function runs to its end all the same, also if it had not begun.
    """

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def run(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        ended = asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            ended.add_done_callback(_tell_of_failure)
            raise


@contextmanager
def open_threads(name: str, *, count: int) -> Iterator[Threads]:
    """Threads called `name_0`, `name_1`, ...; the end waits for all that they were asked to do."""
    with ThreadPoolExecutor(max_workers=count, thread_name_prefix=name) as executor:
        yield Threads(executor)


def _tell_of_failure(ended: asyncio.Future[Any]) -> None:
    """For a function whose caller has left: nobody else looks at how it ended."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        log.warning("failed after its caller had left", error=str(error))
