"""A real PostgreSQL that ends connections, restarts and goes away in the middle of commits; servers that share it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, func, insert, select, text

from orchestrator.errors import CommitUnknownError, StorageError
from orchestrator.scheduling.local import Bell
from orchestrator.settings import StorageSettings
from orchestrator.storage.clock import SET_EVERY_S, DatabaseClock
from orchestrator.storage.engine import Database, open_database
from orchestrator.storage.reconcile import recover
from orchestrator.storage.stores import Stores, open_stores
from orchestrator.storage.tables import metadata, models
from orchestrator.telemetry import Metrics
from orchestrator.testing.fake_reader import FakeSlots, FakeVideoReader, GeneratedVideo
from orchestrator.videos import Videos
from tests.contract.scenario import START, Scenario
from tests.support.cutting_proxy import Cut, CuttingProxy, open_cutting_proxy
from tests.support.postgres import PostgresServer, postgres, postgres_of_session

__all__ = ["postgres", "postgres_of_session"]

pytestmark = pytest.mark.needs("postgresql")

WAIT_S = 20
COUNT_MODELS = select(func.count()).select_from(models)
# More than there are threads that read.
MANY = 8


def settings_of(url: str, folder: Path) -> StorageSettings:
    return StorageSettings(database_url=url, data_dir=folder, max_upload_bytes=1000)


@pytest.fixture
async def database(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(settings_of(postgres.url(), tmp_path)) as opened:
        yield opened


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[CuttingProxy]:
    async with open_cutting_proxy(postgres.port) as opened:
        yield opened


def insert_model(connection: Connection, digest: str = "a") -> None:
    connection.execute(insert(models).values(digest=digest, card="{}"))


async def count_models(database: Database) -> int:
    return await database.read(lambda connection: connection.execute(COUNT_MODELS).scalar_one())


async def read_time(database: Database) -> datetime:
    def read(connection: Connection) -> datetime:
        shown: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return shown

    return await database.read(read)


async def count_many_times(database: Database) -> set[int]:
    """With every connection that reads."""
    return set(await asyncio.gather(*(count_models(database) for _ in range(MANY))))


async def test_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    def difference(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    assert await database.read(difference) == []


@pytest.mark.parametrize(
    ("name", "limit"),
    [("statement_timeout", "1min"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "5s")],
)
async def test_no_wait_is_without_a_limit(database: Database, name: str, limit: str) -> None:
    for transaction in (database.read, database.write):
        assert await transaction(lambda connection: connection.scalar(text(f"SHOW {name}"))) == limit


async def test_the_url_may_set_other_limits(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url() + "?application_name=mine&options=-c%20lock_timeout=3s"
    async with open_database(settings_of(url, tmp_path)) as database:
        for name, limit in {"lock_timeout": "3s", "statement_timeout": "1min", "application_name": "mine"}.items():
            assert await database.read(lambda connection, name=name: connection.scalar(text(f"SHOW {name}"))) == limit


async def test_connections_that_the_server_ended_are_replaced_unnoticed(
    database: Database, postgres: PostgresServer
) -> None:
    await database.write(insert_model)
    await count_many_times(database)
    assert postgres.end_connections() >= 2
    await database.write(lambda connection: insert_model(connection, "b"))
    assert await count_many_times(database) == {2}


async def test_a_server_that_was_restarted_is_used_on_unnoticed(database: Database, postgres: PostgresServer) -> None:
    await database.write(insert_model)
    await count_many_times(database)
    postgres.crash()
    postgres.start()
    assert await count_many_times(database) == {1}
    await database.write(lambda connection: insert_model(connection, "b"))
    assert await count_models(database) == 2


async def test_while_the_server_is_away_one_may_try_again(database: Database, postgres: PostgresServer) -> None:
    await count_many_times(database)
    postgres.crash()
    try:
        for transaction in (database.read, database.write):
            with pytest.raises(StorageError) as raised:
                await transaction(insert_model)
            assert raised.value.retryable
    finally:
        postgres.start()
    await database.write(insert_model)
    assert await count_many_times(database) == {1}


async def test_a_connection_lost_in_the_middle_takes_its_transaction_along(database: Database) -> None:
    def insert_and_lose_connection(connection: Connection) -> None:
        insert_model(connection)
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StorageError, match="was lost"):
        await database.write(insert_and_lose_connection)
    assert await count_models(database) == 0
    await database.write(insert_model)
    assert await count_models(database) == 1


async def test_a_commit_whose_answer_is_lost_has_happened_once(
    database: Database, proxy: CuttingProxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with open_database(settings_of(postgres.url(port=proxy.port), tmp_path)) as through_proxy:
        proxy.next_cut = Cut.AFTER
        await through_proxy.write(insert_model)
        assert proxy.cuts == 1
        assert await count_models(database) == 1


async def test_a_commit_that_does_not_arrive_has_not_happened(
    database: Database, proxy: CuttingProxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with open_database(settings_of(postgres.url(port=proxy.port), tmp_path)) as through_proxy:
        proxy.next_cut = Cut.BEFORE
        with pytest.raises(StorageError, match="was lost"):
            await through_proxy.write(insert_model)
        assert proxy.cuts == 1
        assert await count_models(database) == 0
        await through_proxy.write(insert_model)
    assert await count_models(database) == 1


async def test_a_segment_whose_commit_nobody_could_confirm_is_committed_once(
    proxy: CuttingProxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    async with open_stores(settings_of(postgres.url(port=proxy.port), tmp_path)) as stores:
        scenario = Scenario(stores)
        await scenario.start(segments=2)
        leased = await scenario.lease_one()
        proxy.next_cut, proxy.is_away_after_cut = Cut.AFTER, True
        with pytest.raises(CommitUnknownError):
            await scenario.commit(leased)
        assert proxy.cuts == 1
        proxy.is_away = False
        run = await scenario.commit(leased)
        assert run.segments_done == 1
        [job] = await stores.jobs.of_run(run.id)
        events = await stores.events.after(job, last_id=0, limit=100)
        assert len([event for event in events if event.run_id]) == 1


async def test_an_upload_that_nobody_could_confirm_keeps_its_files(
    proxy: CuttingProxy, postgres: PostgresServer, tmp_path: Path
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"film"

    async with open_stores(settings_of(postgres.url(port=proxy.port), tmp_path)) as stores:
        videos = Videos(
            store=stores.videos,
            files=stores.files,
            reader=FakeVideoReader(GeneratedVideo(), FakeSlots()),
            work=Bell(),
            metrics=Metrics(CollectorRegistry()),
            utc_now=lambda: START,
            monotonic_s=lambda: 0.0,
        )
        proxy.next_cut, proxy.is_away_after_cut = Cut.AFTER, True
        with pytest.raises(CommitUnknownError):
            await videos.receive(chunks(), file_name="a.mp4", owner="")
        proxy.is_away = False
        [video_id] = await stores.videos.ids()
        assert await stores.files.ids() == {video_id}


async def test_a_writer_that_stands_still_loses_its_transaction_and_holds_nobody_up(
    database: Database, postgres: PostgresServer, tmp_path: Path
) -> None:
    wrote, may_end = Event(), Event()

    def write_and_stand_still(connection: Connection) -> None:
        insert_model(connection, "late")
        wrote.set()
        assert may_end.wait(WAIT_S)

    url = postgres.url() + "?options=-c%20idle_in_transaction_session_timeout=100ms"
    async with open_database(settings_of(url, tmp_path)) as another:
        standing = asyncio.ensure_future(another.write(write_and_stand_still))
        assert await asyncio.to_thread(wrote.wait, WAIT_S)
        await database.write(insert_model)
        may_end.set()
        with pytest.raises(StorageError):
            await standing
        assert await count_models(another) == 1


async def test_a_writer_who_waits_too_long_for_its_turn_may_try_again(
    database: Database, postgres: PostgresServer, tmp_path: Path
) -> None:
    wrote, may_end = Event(), Event()

    def write_slowly(connection: Connection) -> None:
        insert_model(connection, "slow")
        wrote.set()
        assert may_end.wait(WAIT_S)

    slow = asyncio.ensure_future(database.write(write_slowly))
    assert await asyncio.to_thread(wrote.wait, WAIT_S)
    url = postgres.url() + "?options=-c%20lock_timeout=50ms"
    try:
        with pytest.raises(StorageError, match="lock timeout"):
            async with open_database(settings_of(url, tmp_path)):
                pass
    finally:
        may_end.set()
    await slow


async def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # libpq takes 2 s at least.
        url = f"postgresql+psycopg://x@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        with pytest.raises(StorageError, match="timeout"):
            async with asyncio.timeout(WAIT_S), open_database(settings_of(url, tmp_path)):
                pass


async def upload(stores: Stores) -> str:
    async with stores.files.receive() as incoming:
        await incoming.write(b"film")
        await incoming.keep()
    await Scenario(stores).add_video(incoming.video_id)
    return incoming.video_id


async def test_a_server_that_starts_beside_another_leaves_it_its_leases_and_uploads(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    settings = settings_of(postgres.url(), tmp_path)
    async with open_stores(settings) as first:
        await recover(first)
        scenario = Scenario(first)
        await scenario.start(segments=2)
        leased = await scenario.lease_one()
        async with first.files.receive() as incoming:
            await incoming.write(b"half a film")
            async with open_stores(settings) as second:
                assert not second.data_dir.is_alone
                await recover(second)
                # Nobody but its holder can commit it, and the holder does.
                assert (await Scenario(second).lease_one()).plan.number != leased.plan.number
            await incoming.keep()
            # Not in the database yet, which is when a folder without a row may be a living server's.
            async with open_stores(settings) as third:
                await recover(third)
            assert incoming.video_id in await first.files.ids()
        assert (await scenario.commit(leased)).segments_done == 1


async def test_a_server_that_starts_alone_frees_what_the_last_ones_left(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    settings = settings_of(postgres.url(), tmp_path)
    async with open_stores(settings) as first:
        await recover(first)
        await Scenario(first).start(segments=1)
        await Scenario(first).lease_one()
    (tmp_path / "incoming" / "vid_half").mkdir(parents=True)
    async with open_stores(settings) as second:
        assert second.data_dir.is_alone
        await recover(second)
        assert not list((tmp_path / "incoming").iterdir())
        leased = await Scenario(second).lease_one()
        assert (leased.strikes, leased.strike_reason) == (1, "worker_lost")


async def test_two_servers_never_work_on_one_segment(postgres: PostgresServer, tmp_path: Path) -> None:
    settings = settings_of(postgres.url(), tmp_path)
    async with open_stores(settings) as first:
        await recover(first)
        await Scenario(first).start(segments=30)
        async with open_stores(settings) as second:
            await recover(second)

            async def lease_all(stores: Stores) -> list[int]:
                numbers = []
                while leased := await Scenario(stores).lease():
                    numbers.append(leased.plan.number)
                    await Scenario(stores).commit(leased)
                return numbers

            mine, others = await asyncio.gather(lease_all(first), lease_all(second))
    assert sorted(mine + others) == list(range(30))
    assert mine
    assert others


async def test_the_time_is_the_servers_however_wrong_the_machine_counts(database: Database) -> None:
    waits_s: list[float] = []

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)

    elapsed_s = 1e6
    clock = DatabaseClock(database, lambda: elapsed_s, sleep)
    with pytest.raises(ValueError, match="before it was set"):
        clock.utc_now()
    for _ in range(2):
        before, _, after = await read_time(database), await clock.keep_set(), await read_time(database)
        assert before <= clock.utc_now() <= after
        # It counts on by itself, an hour where a minute has passed, until it is set again.
        elapsed_s += 3600
        assert clock.utc_now() > after + timedelta(minutes=59)
    assert waits_s == [SET_EVERY_S, SET_EVERY_S]


async def test_the_time_goes_on_while_the_server_is_away(database: Database, postgres: PostgresServer) -> None:
    elapsed_s = 0.0
    clock = DatabaseClock(database, lambda: elapsed_s)
    await clock.set()
    shown = clock.utc_now()
    postgres.crash()
    with pytest.raises(StorageError):
        await clock.set()
    elapsed_s = 5.0
    assert clock.utc_now() == shown + timedelta(seconds=5)
    postgres.start()
    elapsed_s = 3600.0
    await clock.set()
    assert clock.utc_now() < shown + timedelta(minutes=1)
