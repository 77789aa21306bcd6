"""A store's methods, written as plain functions over a connection and called as coroutines, a transaction each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from orchestrator.storage.engine import Database

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class SqlStore:
    """What the stores in a database have in common."""

    def __init__(self, database: Database) -> None:
        self.database = database


Store = TypeVar("Store", bound=SqlStore)
Step = Callable[Concatenate[Store, Connection, Parameters], Result]
Method = Callable[Concatenate[Store, Parameters], Coroutine[Any, Any, Result]]


def reading(step: Step[Store, Parameters, Result]) -> Method[Store, Parameters, Result]:
    """The step as a coroutine method without the connection: a transaction of its own, by `Database.read`."""

    @wraps(step)
    async def method(store: Store, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return await store.database.read(lambda connection: step(store, connection, *args, **kwargs))

    return method


def writing(step: Step[Store, Parameters, Result]) -> Method[Store, Parameters, Result]:
    """The step as a coroutine method without the connection: a transaction of its own, by `Database.write`."""

    @wraps(step)
    async def method(store: Store, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return await store.database.write(lambda connection: step(store, connection, *args, **kwargs))

    return method
