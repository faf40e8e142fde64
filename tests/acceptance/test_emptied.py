"""A Redis that comes back empty under living schedulers and workers: they say so and go on with what is there."""

from __future__ import annotations

import signal
from pathlib import Path

from redis import Redis

from scheduler import Graph, RunLost, RunState, StoreError, UnknownExecutor

from .stack import Stack, eventually


def steps() -> Graph:
    """Two steps."""
    g = Graph("steps")
    g.add("shop.step", name="second", after=[g.add("shop.step", name="first", seconds=0.3, key="first")], key="second")
    return g


def test_a_redis_without_its_data_is_worked_on_with(tmp_path: Path) -> None:
    """Kill -9 and a start without data: the waiting client is told, workers publish their executors again by
    themselves, and the next run completes, all of it in the processes that were there.
    """
    queues = tmp_path / "queues.toml"
    queues.write_text(
        '[classes.standard-low]\nlatency = "standard"\ncost = "low"\nqueue = "shop"\npool = "prefork"\n'
        "concurrency = 2\nlease_seconds = 2\ntarget_wait_seconds = 0.5\ndefault = true\n"
    )
    settings = {"CELERIAC_SHARD_LEASE_SECONDS": "2", "CELERIAC_QUEUES_FILE": str(queues)}
    with Stack(tmp_path, **settings) as stack, stack.client() as client:
        stack.scheduler()
        stack.worker()
        assert client.submit(steps(), check=False).wait(60) is RunState.SUCCEEDED
        lost = client.submit(Graph.from_document(long()), check=False)
        eventually(lambda: len(stack.ledger("begin")) >= 3, "it has begun")
        stack.redis.stop()
        for path in tmp_path.rglob("*.aof*"):
            path.unlink()
        stack.redis.start()
        try:
            lost.wait(60)
        except RunLost:
            pass
        else:
            raise AssertionError("silence, or an end that nobody can know")

        def accepted() -> str:
            try:
                return client.submit(steps()).id  # compared with what workers have published
            except (UnknownExecutor, StoreError):
                return ""

        assert client.run(eventually(accepted, "executors are known again")).wait(60) is RunState.SUCCEEDED
        with Redis(unix_socket_path=str(stack.redis.socket_path)) as redis:
            assert redis.hget("cel:meta", "shards")
        assert stack.kill("scheduler", signal.SIGTERM) == 0
        said = (tmp_path / "scheduler.log").read_text()
        assert "came back empty" in said
        assert "went back in time" in said
        assert "had forgotten this worker" in (tmp_path / "standard-low.log").read_text()


def long() -> dict[str, object]:
    """A run that will not end in this test."""
    return {
        "celeriac": 1,
        "name": "long",
        "nodes": [{"key": "long", "executor": "shop.step", "inputs": {"name": "long", "seconds": 30}}],
    }
