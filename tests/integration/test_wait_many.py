"""Waiting for many runs together, on a real Redis; the scheduler's part is played move by move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scheduler import Client, Graph, RunHandle, RunLost, RunState, WaitTimeout
from scheduler.embedded import EmbeddedRedis
from scheduler.store.connection import connect
from tests.integration.scripted import Scripted
from tests.integration.stage import eventually

GENEROUS_SECONDS = 60


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of an empty store."""
    with Client(redis_url) as found:
        yield found


@pytest.fixture
def finish(redis_url: str) -> Iterator[Callable[[RunHandle, bool], None]]:
    """Ends a run, well or not."""
    made: list[Scripted] = []

    def end(run: RunHandle, well: bool) -> None:
        it = Scripted(redis_url, run.id)
        made.append(it)
        it.open()
        if well:
            it.succeed("a", 1)
        else:
            it.fail("a", kind="permanent")

    yield end
    for it in made:
        it.close()


def graphs(count: int) -> list[Graph]:
    """So many graphs of one node."""
    made = [Graph(f"g{at}") for at in range(count)]
    for g in made:
        g.add("x", key="a")
    return made


def waits(url: str) -> bool:
    """Whether any connection waits in a blocking command."""
    with connect(url) as redis:
        clients: Any = redis.info("clients")
    return int(clients["blocked_clients"]) > 0


def commands(url: str) -> int:
    """How many commands this Redis has done."""
    with connect(url) as redis:
        stats: Any = redis.info("stats")
    return int(stats["total_commands_processed"])


def test_it_returns_when_the_last_of_them_has_ended(client: Client, finish: Callable[[RunHandle, bool], None]) -> None:
    """Whichever that is, with how each ended, in the order in which they were given."""
    runs = client.submit_many(graphs(5))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_many, [*runs, runs[0]], GENEROUS_SECONDS)
        for at in (4, 0, 3, 1):
            finish(runs[at], at != 3)
        assert not waiting.done()
        finish(runs[2], True)
        ended = waiting.result(GENEROUS_SECONDS)
    assert ended == [RunState.FAILED if at == 3 else RunState.SUCCEEDED for at in (0, 1, 2, 3, 4, 0)]
    assert client.wait_many([]) == []


def test_those_that_have_ended_cost_one_question(
    client: Client, finish: Callable[[RunHandle, bool], None], redis_url: str
) -> None:
    """A round trip for all of them, with a command each."""
    runs = client.submit_many(graphs(20))
    for run in runs:
        finish(run, True)
    before = commands(redis_url)
    assert client.wait_many(runs) == [RunState.SUCCEEDED] * 20
    assert commands(redis_url) - before < 20 + 10


def test_one_that_goes_on_is_named_when_the_time_is_up(
    client: Client, finish: Callable[[RunHandle, bool], None]
) -> None:
    """With the time that there was for all of them."""
    runs = client.submit_many(graphs(3))
    finish(runs[0], True)
    finish(runs[2], True)
    with pytest.raises(WaitTimeout, match=r"after 0\.2 seconds \(state: running\)") as late:
        client.wait_many(runs, 0.2)
    assert (late.value.run, late.value.seconds) == (runs[1].id, 0.2)


def test_a_coroutine_waits_as_a_thread_does(client: Client, finish: Callable[[RunHandle, bool], None]) -> None:
    """The loop stays free meanwhile."""
    runs = client.submit_many(graphs(3))

    async def work() -> list[RunState]:
        waiting = asyncio.create_task(client.await_many(runs, GENEROUS_SECONDS))
        for run in runs:
            await asyncio.to_thread(finish, run, True)
        return await waiting

    assert asyncio.run(work()) == [RunState.SUCCEEDED] * 3


def test_it_survives_a_restart_of_redis(tmp_path: Path) -> None:
    """As a wait for a single run does; and a run that was lost with it is told as such."""
    with EmbeddedRedis(tmp_path) as server, Client(server.url) as client, ThreadPoolExecutor() as pool:
        runs = client.submit_many(graphs(2))
        played = [Scripted(server.url, run.id) for run in runs]
        waiting = pool.submit(client.wait_many, runs, GENEROUS_SECONDS)
        eventually(lambda: waits(server.url))
        server.stop()
        server.start()
        for it in played:
            it.open()
            it.succeed("a", 1)
            it.close()
        assert waiting.result(GENEROUS_SECONDS) == [RunState.SUCCEEDED] * 2
        more = client.submit_many(graphs(2))
        with connect(server.url) as redis:
            redis.flushall()
        with pytest.raises(RunLost):
            client.wait_many(more, GENEROUS_SECONDS)
