"""Redis behind three sentinels, as store and broker: real failovers, one of which loses acknowledged writes."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler import Client, Graph, Node, RunLost, RunState
from scheduler.store.connection import connect
from tests.integration.invariants import problems

from .sentinels import Watched, WatchedStack
from .stack import eventually


def ladder(rungs: int, seconds: float) -> Graph:
    """Two strands of steps that join at the end."""
    g = Graph("ladder")
    strands: list[list[Node[Any]]] = [[], []]
    for rung in range(rungs):
        for number, strand in enumerate(strands):
            name = f"{number} {rung}"
            strand[:] = [g.add("shop.step", name=name, seconds=seconds, after=list(strand), key=name)]
    g.add("shop.step", name="end", after=[it for strand in strands for it in strand], key="end")
    return g


@pytest.fixture
def soon(tmp_path: Path) -> str:
    """A class whose messages are missed early: of those that the broker had handed out, a failover loses some."""
    queues = tmp_path / "queues.toml"
    queues.write_text(
        '[classes.standard-low]\nlatency = "standard"\ncost = "low"\nqueue = "shop"\npool = "prefork"\n'
        "concurrency = 4\nlease_seconds = 4\ntarget_wait_seconds = 0.5\ndefault = true\n"
    )
    return str(queues)


def settled(url: str) -> None:
    """Nothing is left to do, and all of Redis is as it must be."""
    with connect(url) as client:
        eventually(lambda: not list(problems(client, idle=True)), "a store as it must be", 20)
        assert list(problems(client, idle=True)) == []


def test_a_failover_in_the_middle_of_runs_costs_time_only(tmp_path: Path, soon: str) -> None:
    """Kill -9 the master: schedulers, worker, broker and clients, sync and async, each find the new one."""
    settings = {"CELERIAC_SHARD_LEASE_SECONDS": "3", "CELERIAC_QUEUES_FILE": soon}
    with Watched(tmp_path) as watched, WatchedStack(tmp_path, watched, **settings) as stack:
        stack.scheduler("first")
        stack.scheduler("second")
        stack.worker()
        client = stack.client()
        runs = [client.submit(ladder(25, 0.05), check=False) for _ in range(4)]

        async def waited() -> list[RunState]:
            async with Client(watched.url) as other:
                return list(await asyncio.gather(*(other.run(run.id).await_end(120) for run in runs)))

        eventually(lambda: len(stack.ledger()) >= 20, "twenty steps have ended")
        watched.kill(watched.ports[0])
        killed_at = time.monotonic()
        assert asyncio.run(waited()) == [RunState.SUCCEEDED] * 4
        assert [run.wait(60) for run in runs] == [RunState.SUCCEEDED] * 4
        assert time.monotonic() - killed_at < 100
        assert watched.master() == watched.ports[1]
        told = json.loads(stack.celeriac("runs", "show", runs[0].id, "-o", "json"))
        assert told["state"] == "succeeded"
        assert len({(line["id"]) for line in stack.ledger()}) >= 4 * 51
        settled(watched.url)
        client.close()


def test_a_failover_that_loses_acknowledged_writes_is_noticed_and_healed(tmp_path: Path, soon: str) -> None:
    """The replica was cut off while steps ended and a run was submitted: said aloud, the run that is left completes,
    the one that is gone tells its client so, and no wrong state is left.
    """
    settings = {"CELERIAC_SHARD_LEASE_SECONDS": "3", "CELERIAC_QUEUES_FILE": soon}
    with Watched(tmp_path) as watched, WatchedStack(tmp_path, watched, **settings) as stack:
        stack.scheduler("first")
        stack.scheduler("second")
        stack.worker()
        with stack.client() as client:
            run = client.submit(ladder(30, 0.05), check=False)
            eventually(lambda: len(stack.ledger()) >= 10, "ten steps have ended")
            watched.cut_replication()
            before = len(stack.ledger())
            gone = client.submit(ladder(200, 0.05), check=False)
            eventually(lambda: len(stack.ledger()) >= before + 15, "fifteen more have ended")
            watched.kill(watched.ports[0])
            with pytest.raises(RunLost, match="lost what it had acknowledged"):
                gone.wait(60)
            assert run.wait(120) is RunState.SUCCEEDED
            said = [event.why for event in run.events(follow=False) if event.move == "rewound"]
        assert said
        assert "commits of shard" in said[0]
        assert "went back in time" in stack.said("first") + stack.said("second")
        names = {line["name"] for line in stack.ledger() if run.id in line["id"]}
        assert len(names) == 61
        settled(watched.url)
