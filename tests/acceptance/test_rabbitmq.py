"""RabbitMQ as the broker, Redis as the store: real processes, a private broker, both kinds of queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import Graph, Node, Retry, RunState

from .rabbit import Rabbit, rabbit
from .stack import Stack, eventually

QUEUES = """[classes.work]
latency = "standard"
cost = "low"
queue = "{queue}"
queue_type = "{kind}"
pool = "prefork"
concurrency = 2
prefetch = 2
lease_seconds = 2
target_wait_seconds = 1
default = true
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One node for this file."""
    with rabbit(tmp_path_factory.mktemp("rabbit")) as it:
        yield it


@pytest.fixture(params=["classic", "quorum"])
def stack(request: pytest.FixtureRequest, broker: Rabbit, tmp_path: Path) -> Iterator[Stack]:
    """An installation whose broker is that node, with a queue of its own kind."""
    queues = tmp_path / "queues.toml"
    queues.write_text(QUEUES.format(queue=f"work-{request.param}", kind=request.param))
    with Stack(
        tmp_path,
        CELERIAC_BROKER_URL=broker.url,
        CELERIAC_QUEUES_FILE=str(queues),
        CELERIAC_SHARD_LEASE_SECONDS="2",
        CELERIAC_BROKER_DEAD_LETTER_QUEUE=f"dead-{request.param}",
    ) as it:
        yield it


def layered(layers: int, width: int) -> Graph:
    """Layers of short steps, each after all of the layer before; one node more that kills whatever runs it."""
    g = Graph("layered")
    before: list[Node[Any]] = []
    for layer in range(layers):
        names = [f"{layer}.{at}" for at in range(width)]
        before = [g.add("shop.late", name=it, seconds=0.02, after=before, key=it) for it in names]
    g.add("shop.fatal", name="poison", key="poison", retry=Retry(max_losses=2))
    return g


def test_a_run_over_rabbitmq_survives_what_kills_its_parts(stack: Stack, broker: Rabbit) -> None:
    """Connections closed, a worker, a scheduler and the broker itself killed with -9, a poison node, a message that is
    none: every node runs and no worker dies; what ran twice the system has counted as lost.
    """
    queue = f"work-{_kind(stack)}"
    stack.scheduler("one")
    stack.scheduler("two")
    stack.worker("work", "first")
    stack.worker("work", "second")
    with stack.client() as client:
        run = client.submit(layered(6, 40), check=False)
        eventually(lambda: len(stack.ledger()) >= 20, "twenty steps have ended")
        broker.cut()
        with broker.connection() as connection:  # not even a task
            connection.Producer().publish("[]", routing_key=queue, content_type="application/json")
        eventually(lambda: len(stack.ledger()) >= 60, "sixty steps have ended")
        stack.kill("first")
        stack.kill("one")
        stack.worker("work", "third")
        eventually(lambda: len(stack.ledger()) >= 120, "half of the steps have ended")
        broker.kill()
        broker.start()
        assert run.wait(120) is RunState.FAILED
        nodes = {it.key: it for it in run.nodes()}
        assert nodes.pop("poison").state.word == "failed"
        assert {it.state.word for it in nodes.values()} == {"succeeded"}
        lost = Counter(it.node for it in run.events(follow=False) if it.move == "lose")
    begun = Counter(line["name"] for line in stack.ledger("begin"))
    assert begun.pop("poison") == 1 + lost.pop("poison", 0)
    assert set(begun) == set(nodes)
    twice = {name: times for name, times in begun.items() if times > 1}
    assert all(times <= 1 + lost[name] for name, times in twice.items()), (twice, lost)
    assert all(stack.processes[name].poll() is None for name in ("second", "third", "two"))
    eventually(lambda: broker.depth(queue) == 0, "an empty queue")


def _kind(stack: Stack) -> str:
    return "quorum" if "quorum" in Path(stack.env["CELERIAC_QUEUES_FILE"]).read_text() else "classic"


@pytest.mark.parametrize("stack", ["classic"], indirect=True)
def test_a_task_longer_than_the_consumer_timeout_runs_once(stack: Stack, broker: Rabbit) -> None:
    """RabbitMQ closes the channel and delivers again; the worker connects anew, and the claim refuses to run it."""
    broker.ctl("eval", "application:set_env(rabbit, consumer_timeout, 3000).")  # of channels opened from now on
    stack.scheduler()
    stack.worker("work")
    g = Graph("long")
    g.add("shop.late", name="after", after=g.add("shop.late", name="long", seconds=6, key="long"), key="after")
    with stack.client() as client:
        run = client.submit(g, check=False)
        assert run.wait(60) is RunState.SUCCEEDED
    log = (stack.directory / "work.log").read_text()
    assert "delivery acknowledgement on channel" in log
    assert Counter(line["name"] for line in stack.ledger("begin")) == {"long": 1, "after": 1}
    assert stack.processes["work"].poll() is None
