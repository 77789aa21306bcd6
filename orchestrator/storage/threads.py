"""Named threads for blocking work, owned by whoever opened them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Threads:
    """Runs blocking functions off the event loop. A caller that is cancelled leaves its function running to its end."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def run(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))


@contextmanager
def open_threads(name: str, *, count: int) -> Iterator[Threads]:
    """Threads called `name_0`, `name_1`, ...; the end waits for what they are doing."""
    with ThreadPoolExecutor(max_workers=count, thread_name_prefix=name) as executor:
        yield Threads(executor)
