"""A simulation and a real scheduler, on one graph: every node takes the same moves, for the same reasons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.graph import Graph, Retry, again, other
from scheduler.testing import Fails, Simulation, simulate
from tests.integration.echo import AtOnce, Echo, Task, failure, loss, value
from tests.integration.stage import Stage, idle

AT_ONCE = "0s..0s"
OUTCOMES: dict[str, list[Any]] = {
    "score": [Fails(), Fails("lost"), {"value": 0.6, "tags": ["a", "b"]}],
    "publish": [{"at": 7}],
    "notify": [Fails("permanent")],
    "ask": [Fails("timeout"), Fails("timeout"), "by another"],
    "mend": ["mended"],
    "late": ["too late"],
}
TAGGED = {**OUTCOMES, "score": [{"value": 0.9, "tags": []}], "ask": [Fails("safety")]}
STOPPED = {**OUTCOMES, "score": [{"value": 1, "tags": []}]}


def graph() -> Graph:
    """Guards, guarded edges, a choice, a stop, a ladder, rules, references: what a graph may decide by itself."""
    g = Graph("both", retry=Retry(3, AT_ONCE))
    score = g.add("echo", key="score", text="x")
    way = g.choice("way", {"high": score.out.value >= 0.8, "fair": score.out.value >= 0.5}, otherwise="low")
    publish = g.add("echo", key="publish", tag=score.out.tags[1], missing=score.out.no, after=way["fair"])
    notify = g.add("echo", key="notify", whole=publish, after=[score.when(score.out.value < 0.9)])
    g.add("echo", key="mend", error=notify.error.kind, trigger_rule="one_failed")
    ask = g.add(
        "echo", key="ask", q=1, retry=Retry(steps=[again(2, AT_ONCE), other("big", inputs={"q": score.out.value})])
    )
    g.add("echo", key="late", answer=ask, after=publish, trigger_rule="all_done", when=ask.state == "succeeded")
    g.stop_when(score.out.value > 0.95, reason="good enough")
    return g


def real(
    stage: Stage, worker: Echo, at_once: AtOnce, outcomes: dict[str, list[Any]]
) -> tuple[Any, dict[str, list[Any]]]:
    """(run, what each node's attempts were given) of a real run with these outcomes."""
    given: dict[str, list[Any]] = {}

    def act(task: Task) -> Any:
        mine = given.setdefault(task.node, [])
        mine.append(task.kwargs)
        found = outcomes[task.node][min(len(mine), len(outcomes[task.node])) - 1]
        if isinstance(found, Fails):
            return loss() if found.kind == "lost" else failure(found.kind)
        return value(found)

    worker.act = act
    stage.publish("big")
    with stage.scheduler(at_once):
        run = stage.submit(graph())
        stage.ended(run)
    return run, given


def moves(played: Simulation, key: str) -> list[tuple[str, str]]:
    """The moves of a node with their reasons, as a log keeps them."""
    return [(it.word, it.why) for it in played.log if it.node == key]


@pytest.mark.parametrize("outcomes", [OUTCOMES, TAGGED, STOPPED], ids=["fails", "tagged", "stopped"])
def test_a_simulation_is_what_the_scheduler_does(
    stage: Stage, worker: Echo, at_once: AtOnce, outcomes: dict[str, list[Any]]
) -> None:
    """States, outputs, inputs, moves and reasons, on a real Redis through the real loop."""
    script = {
        key: [Fails("lost", "killed", "WorkerLost") if it == Fails("lost") else it for it in ones]
        for key, ones in outcomes.items()
    }
    played = simulate(graph(), script)
    run, given = real(stage, worker, at_once, outcomes)
    loaded = stage.load(run)
    assert (played.state, played.why) == (loaded.run_state, loaded.reason)
    assert played.states == stage.states(run)
    assert {key: [it.kwargs for it in calls] for key, calls in played.calls.items()} == given
    values = stage.runs.values(run, range(loaded.n))
    for node, key in enumerate(loaded.keys):
        recorded = [(word, why) for at, word, _, _, why in stage.moves(run) if at == node]
        bare = [(word, "" if word in ("dispatch", "succeed") else why) for word, why in recorded]
        assert moves(played, key) == bare
        if key in played.outputs:
            assert json.loads(values[node]) == played.outputs[key]
    idle(stage)
