"""Chains travel in few messages, on real schedulers and workers; whoever is killed, every step counts once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from scheduler import Client, Graph, Node, Retry, RunState, Timing
from scheduler.core.history import GOES_ON

from .stack import Stack, eventually
from .test_bundles import installed, messages, running

MANY = 200
SHORT = Timing(expected=0.02)
"""Nobody has measured the shop's steps, so they say it."""


def steps(length: int, seconds: float) -> Graph:
    """A chain of steps that leave a line in the ledger when they begin and when they end."""
    graph = Graph("steps")
    _more(graph, [], range(length), seconds)
    return graph


def _more(graph: Graph, before: list[Node[Any]], numbers: range, seconds: float) -> list[Node[Any]]:
    """Steps behind the last of some nodes; that last step."""
    for n in numbers:
        inputs = [f"s{n}", seconds, *before]
        before = [graph.add("shop.step", key=f"s{n}", args=inputs, after=before, timing=SHORT, retry=Retry(3))]
    return before


def begun(stack: Stack) -> list[str]:
    """Names of the steps that have begun, in order."""
    return [it["name"] for it in stack.ledger("begin")]


def gone_on(client: Client, run: Any) -> int:
    """Nodes that were begun with the report of the one before."""
    moves = [move for _, page in client._access.runs.log(run.id, count=100_000) for move in page]
    return sum(word == "dispatch" and why == GOES_ON for _, word, _, _, why in moves)


def is_whole(stack: Stack, run: Any) -> None:
    """The store is as it must be, and the run's log is decided the same again."""
    stack.celeriac("doctor", "--deep")
    path = stack.directory / f"{run.id}.jsonl.gz"
    stack.told("runs", "export", run.id, "-o", str(path))
    stack.told("runs", "replay", str(path))


def test_a_chain_travels_in_few_messages(tmp_path: Path) -> None:
    """Each node takes the output of the one before; result, states and records are those of lone attempts."""
    stack = installed(tmp_path)
    with running(stack) as client:
        graph = Graph("sum")
        last: Any = 0
        for n in range(MANY):
            last = graph.add("shop.add", key=f"n{n}", x=last, y=1)
        graph.returns(last)
        before = len(messages(stack))
        run = client.submit(graph)
        assert run.wait(60) is RunState.SUCCEEDED
        assert run.result() == MANY
        assert {(it.state.word, it.attempt) for it in run.nodes()} == {("succeeded", 1)}
        sent = len(messages(stack)) - before
        assert sent < MANY / 10, f"{sent} messages for {MANY} steps"
        assert gone_on(client, run) == MANY - sent
        is_whole(stack, run)


def test_a_step_that_fails_is_tried_again_and_the_rest_follows(tmp_path: Path) -> None:
    """In the middle of a chain: those before it ran once, those behind it after it, all in their order."""
    stack = installed(tmp_path)
    with running(stack) as client:
        graph, needed = Graph("broken"), tmp_path / "needed"
        head = _more(graph, [], range(5), 0.0)
        bad = graph.add(
            "shop.fragile",
            key="bad",
            name="bad",
            needs=str(needed),
            after=head,
            timing=SHORT,
            retry=Retry(100, base_seconds=0.2, factor=1),
        )
        _more(graph, [bad], range(5, 10), 0.0)
        run = client.submit(graph)
        eventually(lambda: begun(stack).count("bad") > 1, "it is tried again")
        assert begun(stack)[-1] == "bad"
        needed.touch()
        assert run.wait(60) is RunState.SUCCEEDED
        names = [it["name"] for it in stack.ledger("end")]
        assert names == [*(f"s{n}" for n in range(5)), "bad", *(f"s{n}" for n in range(5, 10))]
        tries = {it.key: it.attempt for it in run.nodes()}
        assert tries.pop("bad") == begun(stack).count("bad")
        assert set(tries.values()) == {1}
        assert gone_on(client, run) >= 4
        is_whole(stack, run)


def test_a_killed_worker_s_chain_goes_on_elsewhere(tmp_path: Path) -> None:
    """SIGKILL in the middle: everything ends, and nothing began that was not counted."""
    stack = installed(tmp_path, seconds=0.5)
    with running(stack, "first") as client:
        run = client.submit(steps(60, 0.03))
        eventually(lambda: len(begun(stack)) > 10, "some have begun")
        stack.kill("first")
        stack.worker(name="second")
        assert run.wait(120) is RunState.SUCCEEDED
        assert gone_on(client, run) >= 10  # before the kill; behind it as many as the class's workers are known again
        attempts = {it.key: it.attempt for it in run.nodes()}
        counted = Counter(begun(stack))
        assert counted.keys() == attempts.keys()
        assert all(counted[key] <= attempts[key] for key in attempts), "something began that nobody counted"
        ids = [it["id"] for it in stack.ledger("begin")]
        assert len(set(ids)) == len(ids), "an attempt began twice"
        is_whole(stack, run)


def test_a_killed_scheduler_costs_no_step_another_attempt(tmp_path: Path) -> None:
    """SIGKILL in the middle, and the worker goes on with what it has; the next scheduler takes all of it as it is."""
    stack = installed(tmp_path, seconds=0.5)
    with running(stack) as client:
        run = client.submit(steps(60, 0.03))
        for n in range(2):
            eventually(lambda: len(begun(stack)) > 10 + 20 * n, "some have begun")  # noqa: B023  waited for at once
            stack.kill("scheduler" if not n else "scheduler-0")
            stack.scheduler(f"scheduler-{n}")
        assert run.wait(120) is RunState.SUCCEEDED
        assert begun(stack) == [f"s{n}" for n in range(60)]
        assert {it.attempt for it in run.nodes()} == {1}
        assert gone_on(client, run) > 10
        is_whole(stack, run)


def test_pure_steps_count_once_whoever_is_killed(tmp_path: Path) -> None:
    """SIGKILL for a scheduler and a worker while pure steps begin ahead: each has one outcome, made of the one before;
    what was computed twice was counted, and is little.
    """
    stack = installed(tmp_path, seconds=0.5)
    with running(stack, "first") as client:
        graph = Graph("next")
        last: Any = 0
        for n in range(MANY):
            last = graph.add("shop.next", key=f"s{n}", args=[last, 0.003], timing=SHORT, retry=Retry(3))
        graph.returns(last)
        run = client.submit(graph)
        eventually(lambda: gone_on(client, run) > 20, "some have gone on")
        stack.kill("scheduler")
        stack.scheduler("second-scheduler")
        eventually(lambda: gone_on(client, run) > 60, "more have gone on")
        stack.kill("first")
        stack.worker(name="second")
        assert run.wait(120) is RunState.SUCCEEDED
        assert run.result() == MANY
        attempts = [it.attempt for it in run.nodes()]
        assert {it.state.word for it in run.nodes()} == {"succeeded"}
        assert attempts.count(1) >= MANY - 2, "more was begun in the store than one chain holds"
        is_whole(stack, run)


def test_a_cancelled_chain_ends_soon(tmp_path: Path) -> None:
    """What has ended stands; the step that was just beginning counts for nothing, and no other begins after it."""
    stack = installed(tmp_path, seconds=2.0)
    with running(stack) as client:
        run = client.submit(steps(30, 0.1))
        eventually(lambda: len(begun(stack)) > 3, "some have begun")
        stack.told("runs", "cancel", run.id, "--yes")
        assert run.wait(60) is RunState.CANCELLED
        ran = len(begun(stack))
        states = [it.state.word for it in run.nodes()]
        done = states.count("succeeded")
        assert states == ["succeeded"] * done + ["cancelled"] * (30 - done)
        assert 3 <= done <= ran
        other = Graph("other")
        for n in range(8):
            other.add("shop.step", key=f"o{n}", name=f"o{n}", seconds=0.3)
        assert client.submit(other).wait(60) is RunState.SUCCEEDED
        assert len([it for it in begun(stack) if it.startswith("s")]) <= min(ran + 1, done + 2)
        is_whole(stack, run)


def test_a_paused_chain_goes_on_as_far_as_it_was_sent(tmp_path: Path) -> None:
    """What the worker has in hand ends and is recorded; after resume the rest runs, every step once."""
    stack = installed(tmp_path, seconds=0.5)
    with running(stack) as client:
        run = client.submit(steps(60, 0.03))
        eventually(lambda: len(begun(stack)) > 3, "some have begun")
        stack.told("runs", "pause", run.id)
        eventually(lambda: run.state is RunState.PAUSED, "the pause")

        def at_rest() -> bool:
            words = Counter(it.state.word for it in run.nodes())
            return not words["dispatched"] and not words["running"]

        eventually(at_rest, "what was in hand has ended")
        ran = begun(stack)
        assert 3 < len(ran) < 60
        assert [it.state.word for it in run.nodes()][: len(ran)] == ["succeeded"] * len(ran)
        stack.told("runs", "resume", run.id)
        assert run.wait(60) is RunState.SUCCEEDED
        assert begun(stack) == [f"s{n}" for n in range(60)]
        assert {it.attempt for it in run.nodes()} == {1}
        is_whole(stack, run)


def test_what_a_person_has_said_counts_in_a_chain_too(tmp_path: Path) -> None:
    """The head is completed by hand while it runs: the nodes behind it take that value, not what the worker had."""
    stack = installed(tmp_path)
    with running(stack) as client:
        for _ in range(3):  # whoever comes first to the store
            graph = Graph("by hand")
            head = graph.add("shop.step", key="head", name="worker", seconds=0.7, timing=SHORT)
            second = graph.add("shop.step", key="second", name=head, timing=SHORT)
            graph.returns(graph.add("shop.step", key="third", name=second, timing=SHORT))
            count = len(begun(stack))
            run = client.submit(graph)
            eventually(lambda: len(begun(stack)) > count, "it runs")  # noqa: B023  waited for at once
            stack.told("runs", "complete", run.id, "head", '"by hand"')
            assert run.wait(60) is RunState.SUCCEEDED
            assert [run.get(it) for it in ("head", "second", "third")] == ["by hand"] * 3
            is_whole(stack, run)
