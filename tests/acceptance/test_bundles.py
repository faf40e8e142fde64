"""Short attempts share messages, on real schedulers and real Celery workers, and only the clock tells."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scheduler import Client, Graph, Node, Retry, RunState, Timing

from .stack import Stack, eventually

QUEUES = """[classes.standard-low]
latency = "standard"
cost = "low"
queue = "celeriac.standard-low"
pool = "{pool}"
concurrency = 2
prefetch = 2
lease_seconds = 5
target_wait_seconds = 2
bundle_seconds = {seconds}
default = true
"""
MANY = 400


def installed(directory: Path, seconds: float = 0.05, pool: str = "prefork") -> Stack:
    """An installation with one class, which shares so much work out in a message."""
    queues = directory / "queues.toml"
    queues.write_text(QUEUES.format(seconds=seconds, pool=pool))
    return Stack(directory, CELERIAC_QUEUES_FILE=str(queues), CELERIAC_SHARD_LEASE_SECONDS="2")


def fan(width: int = MANY, **options: Any) -> Graph:
    """Many short ones, and one that adds them up."""
    graph = Graph("fan")
    parts: list[Node[Any]] = [graph.add("shop.add", key=f"part-{n}", x=n, y=1, **options) for n in range(width)]
    graph.returns(graph.add("shop.total", key="total", parts=parts, timing=Timing(alone=True)))
    return graph


def messages(stack: Stack, worker: str = "standard-low") -> list[str]:
    """The tasks of all messages that a worker has taken so far, as its log names them."""
    return re.findall(r"Task ([\w.]+)\[[\w.]+\] received", (stack.directory / f"{worker}.log").read_text())


@contextmanager
def running(stack: Stack, worker: str = "standard-low") -> Iterator[Client]:
    """A scheduler that has seen how long a few calls take, and a worker of this name."""
    with stack:
        stack.scheduler()
        stack.worker(name=worker)
        with stack.client() as client:
            eventually(lambda: "shop.add" in client._access.runs.contracts(), "the worker's contracts")
            eventually(lambda: client._access.runs.workers(), "the worker's slots, for the scheduler looks every 2 s")
            assert client.submit(fan(40)).wait(60) is RunState.SUCCEEDED
            yield client


def test_many_short_ones_share_messages(tmp_path: Path) -> None:
    """The result, the states and the records are those of lone attempts; the messages are few."""
    stack = installed(tmp_path)
    with running(stack) as client:
        before = len(messages(stack))
        run = client.submit(fan())
        assert run.wait(60) is RunState.SUCCEEDED
        assert run.result() == sum(range(MANY)) + MANY
        assert {it.state.word for it in run.nodes()} == {"succeeded"}
        assert {it.attempt for it in run.nodes()} == {1}
        seen = messages(stack)[before:]
        assert "celeriac.bundle" in seen
        assert len(seen) < MANY / 4, f"{len(seen)} messages for {MANY} attempts"
        stack.celeriac("doctor", "--deep")


def test_who_wants_to_travels_alone(tmp_path: Path) -> None:
    """By the node's own word, and by the class's: as many messages as attempts."""
    stack = installed(tmp_path)
    with running(stack) as client:
        before = len(messages(stack))
        assert client.submit(fan(timing=Timing(alone=True))).wait(60) is RunState.SUCCEEDED
        assert messages(stack)[before:].count("shop.add") == MANY
    without = tmp_path / "without"
    without.mkdir()
    stack = installed(without, seconds=0)
    with running(stack) as client:
        assert client.submit(fan()).wait(60) is RunState.SUCCEEDED
        assert "celeriac.bundle" not in messages(stack)


def test_poison_among_short_ones_is_found_and_costs_them_nothing(tmp_path: Path) -> None:
    """A node that kills its process ends failed after its cap; those beside it succeed, and no loss is theirs."""
    stack = installed(tmp_path)
    with running(stack) as client:
        graph = Graph("poisoned")
        for n in range(MANY):
            graph.add("shop.add", key=f"part-{n}", x=n, y=1, retry=Retry(1, max_losses=1))
            if n == MANY // 4:  # some come behind it in its message, and go back with it
                graph.add("shop.poison", key="bad", how="kill", antidote="/nowhere", retry=Retry(1, max_losses=2))
        for _ in range(8):  # so that its pace is known, and it is put among others
            good = Graph("good")
            good.add("shop.poison", how="kill", antidote=os.devnull)
            assert client.submit(good).wait(60) is RunState.SUCCEEDED
        run = client.submit(graph)
        assert run.wait(120) is RunState.FAILED
        states = {it.key: it for it in run.nodes()}
        assert any(it.attempt > 1 for key, it in states.items() if key != "bad"), "it was alone: nothing is proved"
        assert states["bad"].state.word == "failed"
        assert {it.state.word for key, it in states.items() if key != "bad"} == {"succeeded"}
        assert [it["how"] for it in stack.ledger("poison")].count("kill") == 8 + 3


def test_a_killed_worker_s_bundles_run_elsewhere(tmp_path: Path) -> None:
    """SIGKILL for a worker with bundles in hand: everything ends, once, and what ran twice was counted."""
    stack = installed(tmp_path, seconds=0.5)
    with running(stack, "first") as client:
        graph = Graph("steps")
        for n in range(300):
            graph.add("shop.step", key=f"s{n}", name=f"s{n}", seconds=0.01)
        run = client.submit(graph)
        eventually(lambda: len(stack.ledger("begin")) > 60, "some have begun")
        assert "celeriac.bundle" in messages(stack, "first")
        stack.kill("first", signal.SIGKILL)
        stack.worker(name="second")
        assert run.wait(120) is RunState.SUCCEEDED
        begun = [it["name"] for it in stack.ledger("begin")]
        assert set(begun) == {f"s{n}" for n in range(300)}
        again = len(begun) - len(set(begun))
        assert again <= sum(it.attempt - 1 for it in run.nodes()), "something ran twice that nobody counted"


def test_an_older_worker_in_the_class_gets_no_bundles(tmp_path: Path) -> None:
    """As long as one worker of a class does not say that it takes them, every attempt has a message of its own."""
    stack = installed(tmp_path)
    with running(stack) as client:
        old = {"queue_class": "standard-low", "concurrency": 2, "heartbeat_seconds": 600, "queues": []}
        client._access.runs.client.hset("cel:workers", "old@there", _announced(client, old))
        other = Graph("other")
        other.add("shop.step", name="until the scheduler has looked", seconds=2.5)
        other.add("shop.step", name="and so has", seconds=2.5)
        for n in range(4):
            other.add("shop.step", name=f"this {n}", seconds=0.5)
        assert client.submit(other).wait(60) is RunState.SUCCEEDED
        before = len(messages(stack))
        assert client.submit(fan()).wait(60) is RunState.SUCCEEDED
        assert messages(stack)[before:].count("shop.add") == MANY


def _announced(client: Client, said: dict[str, Any]) -> str:
    return json.dumps({**said, "seen_at_ms": client._access.runs.now_ms()})
