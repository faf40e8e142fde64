"""The client against a real scheduler: messages go through a Redis broker to workers that know nothing of graphs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from scheduler import Client, Graph, NodeFailed, NodeState, RunCancelled, RunFailed, RunHandle, RunState
from tests.integration.echo import EchoWorker, Ending, Task, echo, failure, value
from tests.integration.stage import Stage, diamond

QUEUES = ("celeriac.standard-low", "celeriac.batch-high")


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    """A client of the stage."""
    with Client(stage.url) as found:
        yield found


def act(task: Task) -> Ending:
    """What workers do here: by the executor's name."""
    if task.executor == "fails":
        return failure("permanent", "it cannot work")
    if task.executor == "large":
        return Ending(value={"rows": ["x" * 1000] * 300}, kind="blob")
    if task.executor == "sees":
        return value(sorted(task.kwargs["of"]))
    return echo(task)


def test_a_graph_goes_all_the_way(stage: Stage, client: Client) -> None:
    """Submitted, followed while it runs, and its outputs are what the workers gave."""
    with stage.scheduler(), EchoWorker(stage.url, QUEUES, act):
        stage.publish("echo", queue_class="standard-low")
        run = client.submit(diamond(), key="once", deadline="1h")
        assert [done.state for done in run.as_completed(timeout=60)] == [NodeState.SUCCEEDED] * 4
        assert run.wait(timeout=60) is RunState.SUCCEEDED
        assert client.submit(diamond(), key="once").id == run.id
    assert run.get("a") == {"value": 1}
    assert run.result() == {"left": {"value": 1}, "right": 1}
    moves = [(event.node, event.move) for event in run.events()]
    assert moves[0] == ("a", "ready")
    assert moves[-1] == (None, "succeeded")
    assert [move for node, move in moves if node == "d"] == ["ready", "dispatch", "succeed"]
    assert all(view.state is NodeState.SUCCEEDED and view.attempt == 1 for view in run.nodes())
    assert run.summary().progress == {"succeeded": 4}


def test_failures_and_large_outputs_arrive(stage: Stage, client: Client) -> None:
    """A failed node raises at whoever asks for it; a large output comes through the store's side door."""
    g = Graph("mixed")
    big = g.add("large", key="big")
    sees = g.add("sees", of=big)
    bad = g.add("fails", key="bad")
    g.add("echo", key="after", value=bad)
    with stage.scheduler(), EchoWorker(stage.url, QUEUES, act):
        stage.publish("echo", "large", "fails")
        run = client.submit(g, check=False)
        with pytest.raises(NodeFailed, match="it cannot work"):
            run.get(bad, timeout=60)
        assert len(run.get(big, timeout=60)["rows"]) == 300
        stage.publish("sees")  # until now its node waited for somebody to know it
        assert run.get(sees, timeout=60) == ["blob", "path"]  # a worker is told where to fetch it
        assert run.wait(timeout=60) is RunState.FAILED


def test_the_result_of_a_failed_run_tells_what_failed(stage: Stage, client: Client) -> None:
    """Whoever wants the result of a chain whose first node failed hears of that node."""
    g = Graph("chain")
    g.add("echo", key="after", value=g.add("fails", key="bad"))
    with stage.scheduler(), EchoWorker(stage.url, QUEUES, act):
        stage.publish("echo", "fails")
        with pytest.raises(RunFailed, match="it cannot work") as failed:
            client.submit(g).result(timeout=60)
    assert [node for node, _ in failed.value.causes] == ["bad"]


def test_a_cancelled_run_ends_and_says_so(stage: Stage, client: Client) -> None:
    """The request reaches the scheduler, and who waits is told the reason."""
    with stage.scheduler():
        stage.publish("echo")
        run = client.submit(diamond())  # nobody works: it would wait for ever
        waiter = threading.Thread(target=run.wait, kwargs={"timeout": 60})
        waiter.start()
        run.cancel("no longer needed")
        assert run.wait(timeout=60) is RunState.CANCELLED
        waiter.join(60)
        assert not waiter.is_alive()
    with pytest.raises(RunCancelled, match="no longer needed"):
        run.result()


def test_many_runs_from_one_event_loop(stage: Stage, client: Client) -> None:
    """A web application's way: submit and await a hundred runs at once."""

    async def one(n: int) -> tuple[RunHandle, object]:
        g = Graph("one")
        g.add("echo", key="b", value=g.add("echo", key="a", n=n))
        run = await client.asubmit(g)
        return run, await run.aget("b", timeout=60)

    async def work() -> None:
        found = await asyncio.gather(*(one(n) for n in range(100)))
        assert [output for _, output in found] == [{"value": {"n": n}} for n in range(100)]
        assert {await run for run, _ in found} == {RunState.SUCCEEDED}

    with stage.scheduler(), EchoWorker(stage.url, QUEUES, act):
        stage.publish("echo")
        asyncio.run(work())
