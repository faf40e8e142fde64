"""What people ask of nodes, on a real Redis: cancel, skip, complete by hand, run again; deadline and priority."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from scheduler import (
    Client,
    InputMismatch,
    InvalidValue,
    NodeNotFound,
    NodeState,
    NodeWithoutOutput,
    RequestRefused,
    RunError,
    RunHandle,
    TooLarge,
)
from scheduler.core import verbs
from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport
from scheduler.store.audit_run import audit_run
from scheduler.wire import RunId
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, failure, tasks, value
from tests.integration.stage import Stage, diamond, eventually, idle, layers

SECONDS = 20


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    """A client of the stage."""
    with Client(stage.url, namespace=stage.namespace) as found:
        yield found


def fork(rule: str = "all_success") -> Graph:
    """A and b at once, c after both, d after a alone."""
    graph = Graph("fork", retry=1)
    a, b = graph.add("echo", key="a"), graph.add("echo", key="b")
    graph.add("echo", key="c", after=[a, b], trigger_rule=rule)
    graph.add("echo", key="d", after=a)
    return graph


def out(stage: Stage, run: RunId, *keys: str) -> None:
    """Wait until these nodes are out."""
    eventually(lambda: all(stage.states(run)[key] == "dispatched" for key in keys), f"{keys} are out")


def ends(stage: Stage, worker: Echo, handle: RunHandle, key: str, attempt: str, output: object = 1) -> None:
    """A worker reports, and it counts."""
    worker.attempts.report([worker.report(attempt, value(output), 1)])
    eventually(lambda: stage.states(handle.id)[key] == "succeeded", f"{key} succeeds")


def refused(stage: Stage, run: RunId, why: str) -> None:
    """Wait for a refusal in the log."""
    eventually(lambda: any(why in line[4] for line in stage.moves(run) if line[1] == "refused"), why)


def sound(stage: Stage, run: RunId) -> None:
    """`doctor --deep` finds nothing wrong with a run."""
    assert list(audit_run(stage.runs, stage.runs.keys_of(run), run)) == []


def test_nodes_are_cancelled_and_the_run_goes_on(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """WCP 19: what was sent and not begun is refused to workers; who and why stand with node, run and log."""
    worker = Echo(stage.attempts)
    with stage.scheduler(memory):
        run = stage.submit(fork())
        handle = client.run(run)
        out(stage, run, "a", "b")
        handle.cancel("too dear", "ann", nodes=["b"], timeout=SECONDS)
        assert stage.states(run) == {"a": "dispatched", "b": "cancelled", "c": "upstream_failed", "d": "pending"}
        assert stage.attempts.claim([stage.attempt(run, 1)], "w", "t")[0].verdict == "stale"
        ends(stage, worker, handle, "a", stage.attempt(run, 0))
        ends(stage, worker, handle, "d", stage.attempt(run, 3))
        assert stage.ended(run) == ["failed"]
    views = {it.key: it for it in handle.nodes()}
    assert views["b"].why == "cancelled by ann: too dear"
    with pytest.raises(NodeWithoutOutput, match="cancelled by ann: too dear"):
        handle.get("b", 0)
    [act] = handle.summary().acts
    assert (act.verb, act.by, act.reason, act.nodes, act.what) == ("cancel", "ann", "too dear", 1, "node 'b'")
    assert "cancel by ann: too dear (node 'b')" in [why for node, _, _, _, why in stage.moves(run) if node == -1]
    sound(stage, run)
    idle(stage)


@pytest.mark.parametrize("restart", [False, True], ids=["same scheduler", "another scheduler"])
@pytest.mark.parametrize("how", ["succeeds", "fails", "outlives"])
def test_what_runs_has_a_grace(
    stage: Stage, memory: MemoryTransport, client: Client, monkeypatch: pytest.MonkeyPatch, how: str, restart: bool
) -> None:
    """It may succeed in it, is not tried again, and is cancelled after it; whoever owns the run by then."""
    monkeypatch.setattr(verbs, "GRACE_MS", 20_000)
    monkeypatch.setattr("scheduler.core.node_verbs.GRACE_MS", 20_000)
    worker = Echo(stage.attempts)
    graph = Graph("grace")
    first = graph.add("echo", key="a")
    graph.add("echo", key="b", after=first, trigger_rule="all_done")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        handle = client.run(run)
        [task] = eventually(lambda: tasks(memory))
        stage.attempts.claim([task.id], "w", "t")
        handle.cancel("enough", "ann", nodes="a", timeout=SECONDS)
        assert stage.states(run)["a"] == "dispatched"
        assert stage.attempts.renew([task.id], worker.name) == {task.id: False}
        assert {it.key: it.why for it in handle.nodes()}["a"] == "is being cancelled by ann: enough"
        sound(stage, run)
    if restart:
        stage.owners_vanish()
    monkeypatch.setattr("scheduler.core.node_verbs.GRACE_MS", 50 if how == "outlives" else 20_000)
    with stage.scheduler(memory):
        if how != "outlives":
            worker.attempts.report([worker.report(task.id, value(1) if how == "succeeds" else failure(), 1)])
        wanted = "succeeded" if how == "succeeds" else "cancelled"
        eventually(lambda: stage.states(run)["a"] == wanted, wanted)
        out(stage, run, "b")
        worker.attempts.report([worker.report(stage.attempt(run, 1), value(1), 1)])
        assert stage.ended(run) == ["succeeded"]
    sound(stage, run)
    idle(stage)


def test_a_region_is_cancelled(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """WCP 25: all of it that has not ended, regions inside it too, and nothing else."""
    graph = Graph("regions")
    with graph.region("prices"):
        start = graph.add("echo", key="start")
        with graph.region("eu"):
            graph.add("echo", key="eu", after=start)
    graph.add("echo", key="other")
    graph.add("echo", key="labelled", labels={"region": "stock"})
    with stage.scheduler(memory):
        run = stage.submit(graph)
        handle = client.run(run)
        out(stage, run, "start", "other", "labelled")
        with pytest.raises(RunError, match=r"no node in a region 'price'.* Did you mean"):
            handle.cancel_region("price")
        handle.cancel_region("prices", timeout=SECONDS)
        assert stage.states(run) == {
            "start": "cancelled",
            "eu": "cancelled",
            "other": "dispatched",
            "labelled": "dispatched",
        }
        handle.cancel_region("stock", at_once=True, timeout=SECONDS)
        handle.cancel("", nodes=["other"], timeout=SECONDS)
        assert stage.ended(run) == ["failed"]
    idle(stage)


def test_a_node_is_skipped(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """It counts as skipped, and says by whom; what is out is not skipped."""
    worker = Echo(stage.attempts)
    with stage.scheduler(memory):
        run = stage.submit(fork("none_failed"))
        handle = client.run(run)
        out(stage, run, "a", "b")
        with pytest.raises(RequestRefused, match="has been sent"):
            handle.skip("a", timeout=SECONDS)
        handle.skip("d", "no need", "bob", timeout=SECONDS)
        with pytest.raises(RequestRefused, match="is skipped already"):
            handle.skip("d", timeout=SECONDS)
        for node, key in enumerate("ab"):
            ends(stage, worker, handle, key, stage.attempt(run, node))
        ends(stage, worker, handle, "c", stage.attempt(run, 2))
        assert stage.ended(run) == ["succeeded"]
    assert {it.key: it.why for it in handle.nodes()}["d"] == "skipped by bob: no need"
    sound(stage, run)
    idle(stage)


def test_an_open_node_is_completed_by_hand(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """What follows gets that output; the attempt that was out is refused and its report is late."""
    worker = Echo(stage.attempts)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(diamond())
        handle = client.run(run)
        out(stage, run, "a")
        handle.complete("a", {"value": 41}, "I know it", "ann", timeout=SECONDS)
        assert stage.attempts.claim([stage.attempt(run, 0)], "w", "t")[0].verdict == "stale"
        worker.attempts.report([worker.report(stage.attempt(run, 0), value("late"), 1)])
        eventually(lambda: scheduler.counts["late"] == 1, "the late report")
        assert handle.get("a", SECONDS) == {"value": 41}
        found = eventually(lambda: {it.node: it for it in tasks(memory)} if len(tasks(memory)) == 3 else None)
        assert found["b"].kwargs == {"value": 41}
        worker.take(it for it in tasks(memory) if it.node != "a")
        eventually(lambda: len(tasks(memory)) == 4, "d is sent")
        worker.take(it for it in tasks(memory) if it.node == "d")
        assert stage.ended(run) == ["succeeded"]
    [view] = [it for it in handle.nodes() if it.key == "a"]
    assert view.why == "completed by ann"
    assert [(it.end, it.worker) for it in view.tries] == [("completed", "ann")]
    sound(stage, run)
    idle(stage)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_a_failed_node_is_completed_and_the_run_goes_on(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client, ended: bool
) -> None:
    """What came after it runs anew with the output; also when the run has ended, and when its scheduler is another."""
    worker.act = lambda task: failure("permanent") if task.node == "a" else None if task.node == "b" else echo(task)
    with stage.scheduler(at_once):
        run = stage.submit(fork())
        handle = client.run(run)
        eventually(lambda: stage.states(run)["d"] == "upstream_failed", "a has failed")
        if ended:
            worker.attempts.report([worker.report(stage.attempt(run, 1), value("b"), 1)])
            assert stage.ended(run) == ["failed"]
        handle.complete("a", "by hand", timeout=SECONDS)
        eventually(lambda: stage.states(run)["d"] == "succeeded", "d runs")
        if not ended:
            worker.attempts.report([worker.report(stage.attempt(run, 1), value("b"), 1)])
        assert handle.wait(SECONDS) == "succeeded"
        assert stage.ended(run) == ["succeeded"]
    assert handle.get("a", 0) == "by hand"
    assert [(it.attempt, it.end) for it in stage.load(run).tries(0)] == [(1, "failed"), (2, "completed")]
    sound(stage, run)
    idle(stage)


def test_an_output_by_hand_is_checked(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """JSON, 256 KB, the executor's output schema; nothing is stored of what is refused."""
    stage.publish(
        "typed", output_schema={"type": "object", "required": ["rows"], "properties": {"rows": {"type": "integer"}}}
    )
    graph = Graph("typed")
    graph.add("typed", key="a")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        handle = client.run(run)
        out(stage, run, "a")
        with pytest.raises(InvalidValue, match="is not JSON"):
            handle.complete("a", {"rows": {1, 2}})
        with pytest.raises(InvalidValue, match="is not JSON"):
            handle.complete("a", float("nan"))
        with pytest.raises(TooLarge):
            handle.complete("a", "x" * 300_000)
        with pytest.raises(InputMismatch, match="rows"):
            handle.complete("a", {"rows": "seven"})
        with pytest.raises(NodeNotFound):
            handle.complete("z", 1)
        assert handle.summary().acts == ()
        for text, why in (
            ("{", "is not JSON"),
            ('"' + "x" * 300_000 + '"', "at most 262,144 are taken"),
            (None, "no output"),
        ):
            stage.runs.ask("complete", run, "odd", "eve", nodes=["a"], output=text, number=5)
            refused(stage, run, why)
        handle.complete("a", {"rows": 7}, timeout=SECONDS)
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


def test_a_rerun_of_an_ended_run_runs_what_follows_and_nothing_else(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client
) -> None:
    """S65: the preview tells what will run, and that is what runs, with new outputs."""
    outputs = iter(range(100))
    worker.act = lambda task: value(next(outputs))
    with stage.scheduler(at_once):
        run = stage.submit(fork())
        handle = client.run(run)
        assert handle.wait(SECONDS) == "succeeded"
        before = handle.results()
        plan = handle.rerun("b", preview=True)
        assert plan == [("b", NodeState.SUCCEEDED), ("c", NodeState.SUCCEEDED)]
        assert handle.summary().acts == ()
        worker.done.clear()
        assert handle.rerun(["b"], "new prices", "ann", timeout=SECONDS) == plan
        assert handle.wait(SECONDS) == "succeeded"
        assert stage.ended(run) == ["succeeded"]
        assert worker.nodes() == ["b", "c"]
    after = handle.results()
    assert {key for key in before if before[key] != after[key]} == {"b", "c"}
    assert [(it.attempt, it.end) for it in stage.load(run).tries(2)] == [(1, "succeeded"), (2, "succeeded")]
    sound(stage, run)
    idle(stage)


def test_a_rerun_of_a_running_run_keeps_the_timeline_and_fences_what_is_out(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client
) -> None:
    """What ran behind the node on its old output is sent anew; its old report is late, and all tries stand there."""
    held: dict[str, str] = {}

    def act(task: Task) -> Ending | None:
        if task.node == "second" and "second" not in held:
            held["second"] = task.id
            return None
        return echo(task)

    worker.act = act
    graph = Graph("chain")
    first = graph.add("echo", key="first")
    graph.add("echo", key="second", after=first)
    with stage.scheduler(at_once) as scheduler:
        run = stage.submit(graph)
        handle = client.run(run)
        eventually(lambda: held.get("second"), "the second runs")
        eventually(lambda: stage.states(run)["second"] == "dispatched", "and is recorded")
        handle.rerun("first", timeout=SECONDS)
        assert stage.ended(run) == ["succeeded"]
        worker.attempts.report([worker.report(held["second"], value("late"), 1)])
        eventually(lambda: scheduler.counts["late"] == 1, "the late report")
    assert worker.nodes() == ["first", "second", "first", "second"]
    loaded = stage.load(run)
    assert [(it.attempt, it.end) for it in loaded.tries(0)] == [(1, "succeeded"), (2, "succeeded")]
    assert [(it.attempt, it.end) for it in loaded.tries(1)] == [(1, "cancelled"), (2, "succeeded")]
    sound(stage, run)
    idle(stage)


def test_a_rerun_of_a_wide_run_is_taken_up_part_by_part(
    stage: Stage, worker: Echo, at_once: AtOnce, client: Client
) -> None:
    """More nodes than one turn opens, and than one call of a commit holds."""
    with stage.scheduler(at_once, standard_low={"window": 5_000}):
        run = stage.submit(layers(1_200, 2))
        assert stage.ended(run, seconds=90) == ["succeeded"]
        handle = client.run(run)
        assert len(handle.rerun("echo", "all", timeout=SECONDS)) == 1_201
        assert handle.wait(60) == "succeeded"
        assert stage.ended(run, seconds=60) == ["succeeded"]
    assert len(worker.done) == 2_400 + 1_201
    idle(stage)


def test_requests_that_are_sent_twice_are_one(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """By their number; each is answered."""
    with stage.scheduler(at_once):
        run = stage.submit(fork())
        assert stage.ended(run) == ["succeeded"]
        for _ in range(3):
            stage.runs.ask("rerun", run, "", "ann", nodes=["a"], number=77)
            eventually(lambda: stage.runs.client.xlen(stage.runs.keys_of(run).inbox) == 0, "it is taken")
            assert stage.ended(run) == ["succeeded"]
    assert worker.nodes().count("a") == 2
    assert sum(word == "rerun" and number == 77 for _, word, number, *_ in stage.moves(run)) == 3
    idle(stage)


def test_a_request_that_does_not_fit_is_refused_in_the_log(stage: Stage, memory: MemoryTransport) -> None:
    """As other clients may send it: unknown nodes, none, no priority, no region."""
    with stage.scheduler(memory):
        run = stage.submit(fork())
        out(stage, run, "a", "b")
        for kind, fields, why in (
            ("skip", {"nodes": ["z"]}, "has no node 'z'"),
            ("skip", {"nodes": []}, "no node is named"),
            ("skip", {"nodes": ["a", "b"]}, "more than one node"),
            ("rerun", {"nodes": 7}, "no node is named"),
            ("cancel_nodes", {"region": "x"}, "no node is in a region 'x'"),
            ("set_priority", {"priority": "high"}, "the priority is no number"),
            ("set_priority", {"priority": 99}, "not between -9 and 9"),
            ("set_deadline", {"at_ms": "soon"}, "no instant"),
        ):
            stage.runs.ask(kind, run, "odd", "eve", **fields)
            refused(stage, run, why)
        assert stage.runs.summary(run).acts == ()
        stage.runs.cancel(run, "enough")
        assert stage.ended(run) == ["cancelled"]


def test_a_deadline_is_moved_and_taken_away(stage: Stage, memory: MemoryTransport, client: Client) -> None:
    """A new owner knows it; taken away, nothing ends the run."""
    with stage.scheduler(memory):
        run = stage.submit(fork(), deadline_ms=600_000)
        handle = client.run(run)
        out(stage, run, "a", "b")
        handle.set_deadline(None, "take your time", "ann", timeout=SECONDS)
        assert handle.summary().deadline_at_ms is None
        handle.set_deadline(datetime.now(UTC) + timedelta(hours=1), timeout=SECONDS)
        set_to = handle.summary().deadline_at_ms
        assert set_to is not None
        assert abs(set_to - stage.runs.now_ms() - 3_600_000) < 60_000
        with pytest.raises(InvalidValue, match="no time zone"):
            handle.set_deadline(datetime(2030, 1, 1))  # noqa: DTZ001  that is what is wrong with it
    stage.owners_vanish()
    with stage.scheduler(memory):
        handle.set_deadline(0.2, "now", timeout=SECONDS)
        assert stage.ended(run) == ["failed"]
    assert stage.runs.summary(run).reason == "the run's deadline passed"
    with pytest.raises(RunError, match="is failed: there is nothing"):
        handle.set_deadline(60)
    idle(stage)


def test_runs_of_a_higher_priority_go_first(stage: Stage, worker: Echo, at_once: AtOnce, client: Client) -> None:
    """At submit, and set later; a run of a lower one has what room is left, also under a new owner."""
    worker.act = lambda task: None
    with stage.scheduler(at_once, standard_low={"window": 2, "concurrency": 1, "prefetch": 1}):
        blocking = stage.submit(layers(2), shard=0)
        eventually(lambda: len(worker.done) == 2, "the class is full")
        low, middle, high = (stage.submit(layers(3), shard=0, priority=priority) for priority in (-1, 0, 0))
        client.run(high).set_priority(5, "urgent", "ann", timeout=SECONDS)
        assert [stage.runs.summary(run).priority for run in (low, middle, high)] == [-1, 0, 5]
    worker.act = echo
    worker.done.clear()
    stage.owners_vanish()
    with stage.scheduler(at_once, standard_low={"window": 2, "concurrency": 1, "prefetch": 1}) as scheduler:
        eventually(lambda: sum(len(it.runs) for it in list(scheduler._owned.held.values())) == 4, "all are loaded")
        worker.attempts.report([worker.report(stage.attempt(blocking, node), value(1), 1) for node in (0, 1)])
        assert stage.ended(blocking, low, middle, high) == ["succeeded"] * 4
    order = [task.id.split(".")[1] for task in worker.done]
    assert order == [high] * 3 + [middle] * 3 + [low] * 3
    idle(stage)


def test_a_priority_is_given_with_a_submit(stage: Stage, client: Client, memory: MemoryTransport) -> None:
    """And one that is none is refused before anything is stored."""
    assert client.submit(diamond(), priority=7).summary().priority == 7
    assert client.submit(diamond()).summary().priority == 0
    for wrong in (10, True, "high"):
        with pytest.raises(InvalidValue, match="priority"):
            client.submit(diamond(), priority=wrong)  # type: ignore[arg-type]  # that is what is wrong


def test_the_same_for_coroutines(stage: Stage, worker: Echo, at_once: AtOnce, client: Client) -> None:
    """Every verb has its twin."""
    worker.act = lambda task: None if task.node in ("a", "b") else echo(task)

    async def ask(handle: RunHandle) -> None:
        await handle.aset_priority(3, timeout=SECONDS)
        await handle.aset_deadline("10m", timeout=SECONDS)
        await handle.askip("d", timeout=SECONDS)
        await handle.acancel("no", "ann", nodes=["b"], at_once=True, timeout=SECONDS)
        await handle.acomplete("a", 1, timeout=SECONDS)
        with pytest.raises(RunError):
            await handle.acancel_region("x")
        assert await handle.await_end(SECONDS) == "failed"
        assert [key for key, _ in await handle.arerun("b", preview=True)] == ["b", "c"]
        worker.act = echo
        await handle.arerun("b", timeout=SECONDS)
        assert await handle.await_end(SECONDS) == "succeeded"

    with stage.scheduler(at_once):
        run = stage.submit(fork())
        out(stage, run, "a", "b")
        asyncio.run(ask(client.run(run)))
        assert stage.ended(run) == ["succeeded"]
    assert [act.verb for act in stage.runs.summary(run).acts] == [
        "priority",
        "deadline",
        "skip",
        "cancel",
        "complete",
        "rerun",
    ]
    assert json.loads(stage.runs.values(run, [0])[0]) == 1
    idle(stage)
