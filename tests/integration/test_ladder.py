"""Retry ladders at work: each attempt goes out as its rung says, also after the scheduler that decided it has died."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler import Client, Secret
from scheduler.graph import Graph, Retry, again, changed, other
from scheduler.service.transport import MemoryTransport
from scheduler.store.audit import audit
from tests.integration.echo import (
    INTERACTIVE,
    STANDARD,
    AtOnce,
    Echo,
    EchoWorker,
    Task,
    echo,
    failure,
    loss,
    tasks,
    value,
)
from tests.integration.stage import Stage, eventually, idle

AT_ONCE = "0s..0s"


def moves_of(stage: Stage, run: Any, node: int, word: str) -> list[str]:
    """The reasons of one kind of move of a node, in order."""
    return [move[4] for move in stage.moves(run) if move[:2] == [node, word]]


def test_a_rung_may_bring_secrets_that_no_other_has(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its message names where they go, though nothing else of the graph holds any."""
    worker.act = lambda task: value(1) if task.attempt == 2 else failure()
    graph = Graph("secret")
    graph.add("echo", key="n", x=1, retry=Retry(steps=[again(1), changed({"z": Secret("api")}, 1, AT_ONCE)]))
    with stage.scheduler(at_once):
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    first, second = (task.headers["celeriac"].get("secrets") for task in worker.done)
    assert (first, second) == (None, [[1, "z"]])
    idle(stage)


def test_a_node_goes_down_its_ladder(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The same twice, then with other inputs, then by another executor; one result, and its log tells the rungs."""
    stage.publish("big", queue_class="interactive-low")
    worker.act = lambda task: value({"by": task.executor, **task.kwargs}) if task.executor == "big" else failure()
    graph = Graph("down")
    steps = [again(2, AT_ONCE), changed({"t": 0}), other("big", inputs={"q": "ask"})]
    node = graph.add("echo", key="n", t=1, q="hi", retry=Retry(steps=steps))
    graph.add("big", key="reads", x=node.out.by)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    mine = [(task.executor, task.attempt, task.kwargs) for task in worker.done if task.node == "n"]
    assert mine == [
        ("echo", 1, {"q": "hi", "t": 1}),
        ("echo", 2, {"q": "hi", "t": 1}),
        ("echo", 3, {"q": "hi", "t": 0}),
        ("big", 4, {"q": "ask"}),
    ]
    assert worker.done[-1].kwargs == {"x": "big"}
    last = "rung 3 of 3, executor big, fallback_from echo"
    assert moves_of(stage, run, 0, "retry") == [
        "transient: rung 1 of 3, the same again in 0 ms, failed 1 of at most 4 times",
        "transient: rung 2 of 3, with changed inputs in 0 ms, failed 2 of at most 4 times",
        f"transient: {last} in 0 ms, failed 3 of at most 4 times",
    ]
    assert moves_of(stage, run, 0, "dispatch") == ["", "", "rung 2 of 3, with changed inputs", last]
    assert moves_of(stage, run, 0, "succeed") == [last]
    idle(stage)


def test_an_error_that_no_rung_answers_ends_the_node(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Kinds choose the steps; what is never tried again is not, and the error is told with kind, origin and phase."""
    kinds = {"a": "invalid_input", "b": "safety", "c": "timeout"}
    worker.act = lambda task: failure(kinds[task.node])
    graph = Graph("none", retry=Retry(steps=[again(2, AT_ONCE), changed({"x": 1})], never=["timeout"]))
    for key in kinds:
        graph.add("echo", key=key)
    with stage.scheduler(at_once):
        run = stage.submit(graph, correlation="order 7")
        assert stage.ended(run) == ["failed"]
    assert [(task.node, task.attempt) for task in worker.done if task.node != "a"] == [("b", 1), ("c", 1)]
    assert [task.kwargs for task in worker.done if task.node == "a"] == [{}, {"x": 1}]
    error = json.loads(stage.runs.values(run, [1])[1])
    assert (error["kind"], error["origin"], error["phase"]) == ("safety", "policy", "execute")
    idle(stage)


def test_a_retry_after_holds_for_the_executor_that_asked(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The same executor is not asked before; another one is asked at once."""
    stage.publish("big")

    def act(task: Task) -> Any:
        if task.executor == "big":
            return value("big")
        return failure("rate_limited", retry_after_ms=150 if task.attempt == 1 else 3_600_000)

    worker.act = act
    graph = Graph("pause")
    graph.add("echo", retry=Retry(steps=[again(2, AT_ONCE), other("big")]))
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    first, second, _ = stage.load(run).tries(0)
    assert second.ready_at_ms - first.ended_at_ms >= 150
    idle(stage)


def test_poison_goes_to_another_executor(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Beyond the cap of losses the ladder is asked; what the other executor loses is counted anew."""
    stage.publish("safe")
    worker.act = lambda task: loss() if task.executor == "echo" or task.attempt == 4 else echo(task)
    graph = Graph("poison")
    graph.add("echo", retry=Retry(steps=[again(3), other("safe")], max_losses=2))
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    assert [task.executor for task in worker.done] == ["echo"] * 3 + ["safe"] * 2
    assert [it.end for it in stage.load(run).tries(0)] == ["lost"] * 4 + ["succeeded"]
    idle(stage)


def test_a_new_owner_sends_the_attempt_of_the_same_rung(stage: Stage, memory: MemoryTransport) -> None:
    """What was committed and never published goes out with the executor, class and inputs that were decided."""
    stage.publish("big", queue_class="interactive-low")
    graph = Graph("again")
    up = graph.add("echo", key="up")
    graph.add("echo", key="n", x=up, retry=Retry(steps=[other("big", inputs={"y": up.out.deep})]))

    class Deaf(MemoryTransport):
        """Takes what is for `echo`, and nothing for `big`."""

        def send(self, outgoing: Any) -> None:
            if any(template.executor == "big" for template, _ in outgoing):
                raise ConnectionError("no broker")
            super().send(outgoing)

    deaf, worker = Deaf(), Echo(stage.attempts)
    with stage.scheduler(deaf):
        run = stage.submit(graph)
        worker.act = lambda task: value({"deep": [1, 2]}) if task.node == "up" else failure("permanent")
        for count in (1, 2):
            eventually(lambda count=count: len(deaf.sent) == count)  # type: ignore[misc]  # mypy cannot infer it
            worker.take(tasks(deaf)[count - 1 :])
        eventually(lambda: stage.attempt(run, 1, 2) in stage.in_flight())
    stage.owners_vanish()
    with stage.scheduler(memory):
        [(queue, _, _)] = eventually(lambda: list(memory.sent))
        [task] = tasks(memory)
        assert (queue, task.executor, task.kwargs, task.attempt) == (INTERACTIVE, "big", {"y": [1, 2]}, 2)
        worker.act = echo
        worker.take([task])
        assert stage.ended(run) == ["succeeded"]
    assert [task.executor for task in worker.done] == ["echo", "echo", "big"]
    idle(stage)


def test_a_view_tells_the_executor_and_what_it_stands_in_for(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """While it waits, and when it has ended: the provenance of the result is there for whoever reads the run."""
    stage.publish("big", queue_class="interactive-low")
    worker.act = lambda task: echo(task) if task.executor == "big" else failure()
    graph = Graph("view")
    graph.add("echo", key="n", retry=Retry(steps=[other("big")]))
    graph.add("echo", key="waits", retry=Retry(steps=[again(2, "0s..0s"), again(2, "1h..1h", jitter="none")]))
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = stage.submit(graph)
        handle = client.run(run)
        assert handle.get("n") == {}
        found = handle.nodes()[0]
        assert (found.executor, found.fallback_from, found.queue_class) == ("big", "echo", "interactive-low")
        eventually(lambda: stage.load(run).failures[1] == 2)
        found = handle.nodes()[1]
        assert (found.executor, found.fallback_from, found.state.word) == ("echo", "", "waiting")
        assert found.why == ("waits for its next try on rung 2 of 2, the same again, failed 2 of at most 4 times")
        handle.cancel("enough")
        assert stage.ended(run) == ["cancelled"]
    idle(stage)


def asked() -> Graph:
    """A question to provider A, then to B, then to what was kept of last time; two nodes follow its outcome."""
    graph = Graph("chain")
    question = graph.add("echo", key="question", text="why?")
    answer = graph.add("a.ask", key="answer", q=question.out.text, retry=1)
    answer.fallback("b.ask", retry=1).fallback("cache.lookup", key=question.out.text, retry=1)
    graph.add("echo", key="shows", answer=answer.out.by)
    graph.add("echo", key="mourns", error=answer.error, trigger_rule="all_failed")
    graph.returns(answer)
    return graph


@pytest.mark.parametrize(
    ("broken", "by", "after"),
    [
        ([], "a.ask", ""),
        (["a.ask"], "b.ask", "a.ask"),
        (["a.ask", "b.ask"], "cache.lookup", "a.ask"),
    ],
)
def test_a_fallback_gives_the_one_result_of_its_node(
    stage: Stage, worker: Echo, at_once: AtOnce, broken: list[str], by: str, after: str
) -> None:
    """Provider A, provider B, then the cached answer: consumers see one outcome, and whose it is stands beside it."""
    stage.publish("a.ask", "b.ask", "cache.lookup")

    def act(task: Task) -> Any:
        if task.executor == "echo":
            return echo(task)
        return failure("permanent") if task.executor in broken else value({"by": task.executor, "got": task.kwargs})

    worker.act = act
    with stage.scheduler(at_once), Client(stage.url) as client:
        run = stage.submit(asked())
        assert stage.ended(run) == ["succeeded"]
        assert client.run(run).result() == {"by": by, "got": {"key" if by == "cache.lookup" else "q": "why?"}}
        [view] = [it for it in client.run(run).nodes() if it.key == "answer"]
    assert (view.executor, view.fallback_from, len(view.tries)) == (by, after, len(broken) + 1)
    ends = {"question": "succeeded", "answer": "succeeded", "shows": "succeeded", "mourns": "skipped"}
    assert stage.states(run) == ends
    [shows] = [task for task in worker.done if task.node == "shows"]
    assert shows.kwargs == {"answer": by}
    [why] = moves_of(stage, run, 1, "succeed")
    assert why == (f"rung {len(broken) + 1} of 3, executor {by}, fallback_from {after}" if after else "")
    idle(stage)


def test_a_node_whose_fallbacks_fail_too_has_failed_once(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """With the error of the last one; what follows a failure follows it."""
    stage.publish("a.ask", "b.ask", "cache.lookup")
    worker.act = lambda task: echo(task) if task.executor == "echo" else failure(message=f"{task.executor} is down")
    with stage.scheduler(at_once):
        run = stage.submit(asked())
        assert stage.ended(run) == ["failed"]
    assert stage.states(run)["mourns"] == "succeeded"
    assert json.loads(stage.runs.values(run, [1])[1])["message"] == "cache.lookup is down"
    [mourns] = [task for task in worker.done if task.node == "mourns"]
    assert mourns.kwargs["error"]["message"] == "cache.lookup is down"
    assert [word for word in stage.words(run, 1) if word in ("fail", "succeed")] == ["fail"]
    idle(stage)


def test_what_is_stored_of_a_ladder_agrees_with_itself(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """`doctor --deep` reads the rungs like everything else, of nodes that wait, that succeeded and that failed."""
    stage.publish("big")
    worker.act = lambda task: failure() if task.node != "n" or task.executor == "echo" else echo(task)
    graph = Graph("deep")
    graph.add("echo", key="n").fallback("big")
    graph.add("echo", key="fails", retry=1).fallback("big", retry=1)
    graph.add("echo", key="waits", retry=Retry(steps=[again(1), changed({"x": 1}), again(2, "1h..1h", jitter="none")]))
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        states = {"n": "succeeded", "fails": "failed", "waits": "waiting"}
        eventually(lambda: stage.states(run) == states and stage.load(run).failures[2] == 2, seconds=30)
        assert list(audit(stage.runs)) == []
        stage.runs.cancel(run, "enough")
        assert stage.ended(run) == ["cancelled"]
    assert list(audit(stage.runs)) == []
    idle(stage)


@pytest.mark.parametrize("width", [60])
def test_ladders_of_a_wide_run_all_end(stage: Stage, width: int) -> None:
    """Real queues of two classes, many nodes on different rungs at once."""
    stage.publish("echo")
    stage.publish("big", queue_class="interactive-low")

    def act(task: Task) -> Any:
        number = int(task.node)
        if task.executor == "big" or number % 3 == 0:
            return echo(task)
        return failure("permanent" if number % 3 == 1 else "transient")

    graph = Graph("wide", retry=Retry(steps=[again(2, AT_ONCE), other("big", inputs={"x": 1})]))
    for number in range(width):
        graph.add("echo", key=str(number))
    with EchoWorker(stage.url, [STANDARD, INTERACTIVE], act) as worker, stage.scheduler():
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    assert sum(task.executor == "big" for task in worker.done) == width // 3 * 2
    assert len(worker.done) == width // 3 * (1 + 2 + 3)
    idle(stage)
