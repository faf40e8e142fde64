"""Redis restarts, forgets and fills up during a run; what an idle scheduler costs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.embedded import EmbeddedRedis
from scheduler.service.loop import Scheduler
from scheduler.service.transport import MemoryTransport
from scheduler.store.inboxes import Inboxes
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, eventually, idle, layers, owned


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that a test may stop."""
    with EmbeddedRedis(tmp_path) as server:
        yield server


def test_a_redis_that_restarts_during_a_run_costs_only_time(own_redis: EmbeddedRedis, soon: None) -> None:
    """The loop connects again, loads what stands there and completes the run; no finished node is sent again."""
    stage = Stage(own_redis.url)
    stage.publish("echo")
    half = threading.Event()

    def act(task: Task) -> Ending | None:
        if task.node == "echo-20":
            half.set()
        return echo(task)

    graph = layers(4, 10)
    with stage.scheduler(AtOnce(Echo(stage.attempts, act)), standard_low={"lease_seconds": 2}) as scheduler:
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        run = stage.submit(graph)
        assert half.wait(20)
        done_before = {key for key, state in stage.states(run).items() if state == "succeeded"}
        own_redis.stop()
        own_redis.start()
        assert stage.ended(run) == ["succeeded"]
        assert not scheduler.counts["crashes"]
    ends = Counter(move[0] for move in stage.moves(run) if move[1] == "succeed")
    assert set(ends.values()) == {1}
    assert done_before
    check(stage.client, idle=True)


def test_a_redis_that_forgets_its_scripts_costs_nothing(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """As after a failover; each is sent again in full."""
    worker.act = lambda task: stage.client.script_flush() and echo(task)
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
    idle(stage)


def test_a_full_redis_is_waited_for(own_redis: EmbeddedRedis) -> None:
    """What is refused for want of memory goes through once there is room; nothing is done twice."""
    stage = Stage(own_redis.url)
    stage.publish("echo")
    worker = Echo(stage.attempts)
    run = stage.submit(diamond())
    stage.client.config_set("maxmemory", "1")
    with stage.scheduler(AtOnce(worker)) as scheduler:
        eventually(lambda: scheduler.counts["waits"] > 1)
        stage.client.config_set("maxmemory", "0")
        assert stage.ended(run) == ["succeeded"]
    assert sorted(worker.nodes()) == ["a", "b", "c", "d"]
    check(stage.client, idle=True)


def test_a_scheduler_without_shards_does_not_spin(stage: Stage) -> None:
    """One that stands by sends a handful of commands a second, and so does one with nothing to do."""
    with stage.scheduler(MemoryTransport(), shard_lease_seconds=10.0):
        eventually(lambda: len(owned(stage.client)) == stage.shards)
        with stage.scheduler(MemoryTransport(), shard_lease_seconds=10.0):
            eventually(lambda: stage.client.zcard(stage.keys.schedulers) == 2)

            def spent_in_a_second() -> int:
                before = stage.client.info("stats")["total_commands_processed"]
                time.sleep(1)  # what is measured
                return int(stage.client.info("stats")["total_commands_processed"] - before)

            eventually(lambda: spent_in_a_second() < 12, "quiet, once what was taken has been looked through")


def test_a_blocked_read_ends_before_the_connection_does(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the leases, a read asks for less than the silence after which a connection is given up."""
    asked: list[int] = []
    read = Inboxes.read

    def noted(self: Any, after: Any, block_ms: int) -> Any:
        asked.append(block_ms)
        return read(self, after, min(block_ms, 50))

    monkeypatch.setattr(Inboxes, "read", noted)
    with stage.scheduler(at_once, shard_lease_seconds=600.0):
        eventually(lambda: len(asked) > 3)
    assert max(asked) <= 5_000


def test_the_scheduler_says_who_it_is(stage: Stage) -> None:
    """Its name is in the table of owners while it works, and no row names it afterwards."""
    with stage.scheduler(MemoryTransport()) as scheduler:
        assert isinstance(scheduler, Scheduler)
        eventually(lambda: set(owned(stage.client).values()) == {scheduler.name})
    assert owned(stage.client) == {}
    assert stage.client.zrange(stage.keys.schedulers, 0, -1) == []
