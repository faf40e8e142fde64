"""Which nodes follow another in its message, how the one's output gets into the other's inputs, what both are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scheduler import Graph, Timing
from scheduler.core.inputs import holes
from scheduler.core.run import Run
from scheduler.core.states import NodeState, RunState
from scheduler.service.admission import Admission
from scheduler.service.bundling import KEPT, MOST_TOGETHER, OVERHEAD_US, SEEN, Draft
from scheduler.service.chains import may_chain, steps_after
from scheduler.settings import QueueClass
from scheduler.wire import BUNDLES, Report
from scheduler.worker import chain
from scheduler.worker.endings import GIVEN_BACK, endings_of, lost

MOST_US = 50_000
STEP_US = 100
RUN_ID = "01jd0c0000000000000000000a"


def run_of(graph: Graph) -> Run:
    """A graph as the scheduler holds it, its first nodes ready."""
    compiled = graph.compile()
    run = Run.load(RUN_ID, compiled.header, compiled.pages(), created_at_ms=0)
    for node in range(run.n):
        if not run.upstream(node):
            run.state[node] = NodeState.READY
    return run


def line(length: int, executor: str = "quick") -> Graph:
    """Nodes each of which takes the output of the one before."""
    graph = Graph("line")
    before = graph.add(executor, key="n0", x=1)
    for n in range(1, length):
        before = graph.add(executor, key=f"n{n}", x=before)
    return graph


def follow(run: Run, node: int = 0, work_us: int = STEP_US, most_us: int = MOST_US) -> list[int]:
    """What follows a node in its message, if each adds as much; those of another executor than `quick` do not fit."""

    def work(run: Run, node: int) -> int | None:
        return STEP_US if run.way(node).executor == "quick" else None

    steps, together = steps_after(run, node, work_us, most_us, work)
    assert together == work_us + STEP_US * len(steps)
    return steps


# --- which nodes follow ---------------------------------------------------------------------------------------------


def test_a_chain_is_followed_to_its_end() -> None:
    """Each with one before and one behind; from its middle too."""
    run = run_of(line(5))
    assert follow(run) == [1, 2, 3, 4]
    assert follow(run, 3) == [4]
    assert follow(run, 4) == []


def test_a_chain_ends_at_the_limit_of_a_message() -> None:
    """Of work, and of attempts."""
    run = run_of(line(MOST_TOGETHER + 10))
    assert follow(run, most_us=STEP_US * 4) == [1, 2, 3]
    assert follow(run, most_us=STEP_US * 4 - 1) == [1, 2]
    assert len(follow(run, most_us=STEP_US * 1000)) == MOST_TOGETHER - 1


def fork(graph: Graph, head: Any) -> None:
    """Two take what the last of the chain gives."""
    graph.add("quick", key="left", x=head)
    graph.add("quick", key="right", x=head)


def join(graph: Graph, head: Any) -> None:
    """One waits for another node too."""
    graph.add("quick", key="joined", x=head, after=graph.add("quick", key="other"))


def other_class(graph: Graph, head: Any) -> None:
    """One has no place in this message."""
    graph.add("slow", key="slow", x=head)


def ancestor(graph: Graph, head: Any) -> None:
    """One takes what a node further up gives, too."""
    graph.add("quick", key="late", x=head, y=graph.node("a").out.of_ancestor())


def mapper(graph: Graph, head: Any) -> None:
    """A mapper is to see the output before."""
    graph.add("quick", key="mapped", x=head.via("sku@2"))


def error(graph: Graph, head: Any) -> None:
    """What is asked for is the error of the one before."""
    graph.add("quick", key="why", x=head.error)


def rule(graph: Graph, head: Any) -> None:
    """One would run after a failure as well."""
    graph.add("quick", key="always", after=head, trigger_rule="all_done")


@pytest.mark.parametrize("end", [fork, join, other_class, ancestor, mapper, error, rule])
def test_a_chain_ends_where_more_than_one_output_is_needed(end: Callable[[Graph, Any], None]) -> None:
    """At a fork, a join, another class, what refers to something unfinished, a mapper, an error, another rule."""
    graph = Graph("broken off")
    a = graph.add("quick", key="a", x=1)
    b = graph.add("quick", key="b", x=a)
    end(graph, b)
    run = run_of(graph)
    assert [run.keys[it] for it in follow(run, run.keys.index("a"))] == ["b"]


def test_what_has_ended_already_may_be_referred_to() -> None:
    """Its output stands in the message; what waits for it to end is the scheduler's to send."""
    graph = Graph("references")
    first = graph.add("quick", key="first", x=1)
    second = graph.add("quick", key="second", x=first)
    graph.add("quick", key="third", x=second, y=first.out.of_ancestor())
    run = run_of(graph)
    assert follow(run, 0) == [1]
    run.state[0], run.state[1] = NodeState.SUCCEEDED, NodeState.READY
    assert follow(run, 1) == [2]


@pytest.mark.parametrize("state", [NodeState.SKIPPED, NodeState.READY, NodeState.CANCELLED])
def test_only_what_is_pending_follows(state: NodeState) -> None:
    """A person may have skipped a node in the middle."""
    run = run_of(line(4))
    run.state[2] = state
    assert follow(run) == [1]


def guarded(graph: Graph) -> None:
    """An expression ends the run."""
    graph.stop_when(graph.node("n0").out.x > 1)


SPOILT: dict[str, Callable[[Run], Any]] = {
    "a policy": lambda run: setattr(run, "policy", object()),
    "a deadline": lambda run: setattr(run, "deadline_at_ms", 10**15),
    "numbers left out": lambda run: setattr(run, "floor", 20),
    "a node that is leaving": lambda run: run.leaving.update({1: "cancelled"}),
    "a node on its ladder": lambda run: run.rungs.update({1: (1, 3)}),
    "a stop": lambda run: setattr(run, "stopped", (RunState.SUCCEEDED, "enough")),
}


@pytest.mark.parametrize("what", SPOILT)
def test_nothing_chains_where_something_may_come_between(what: str) -> None:
    """Policy, deadline, numbers that are left out, a cancel that has begun, a ladder, a stop."""
    run = run_of(line(2))
    assert may_chain(run)
    SPOILT[what](run)
    assert not may_chain(run)


def test_a_run_with_expressions_does_not_chain() -> None:
    """They see each output before the next node begins."""
    graph = line(2)
    guarded(graph)
    assert not may_chain(run_of(graph))


# --- admission ------------------------------------------------------------------------------------------------------


CLASS = QueueClass(
    name="short", latency="standard", cost="low", queue="q.short", pool="prefork", concurrency=2, prefetch=4
)


def admission(**contract: Any) -> Admission:
    """Of one class with two slots, and an executor of which it knows that it is short."""
    it = Admission({"short": CLASS}, "short")
    it.learn({"quick": {"v": 1, "name": "quick", **contract}, "other": {"v": 1, "name": "other"}})
    for _ in range(SEEN):
        it.bundling.took("quick", STEP_US)
    worker = {"queue_class": "short", "concurrency": 2, "seen_at_ms": 0, "bundles": [BUNDLES]}
    it.bundling.hear({"w": worker}, 0)
    return it


def taken(it: Admission, run: Run) -> dict[int, list[int]]:
    """What follows each node that goes out; all that do so share a message with the one before."""
    assert it.add(run, 0) == ""
    [found] = it.take(1.0, 100)
    assert found.nodes == [0]
    assert (found.parcels[0] is not None) is bool(found.steps)
    return found.steps


def test_a_chain_alone_is_a_message_of_several() -> None:
    """Its head has company of its own; one without steps travels in a message as ever."""
    assert taken(admission(), run_of(line(4))) == {0: [1, 2, 3]}
    assert taken(admission(), run_of(line(1))) == {}


def test_a_chain_is_as_long_as_a_message_holds() -> None:
    """What is beyond the work of one is left to the scheduler, while something else is ready too."""
    fit = CLASS.bundle_us // (STEP_US + OVERHEAD_US)
    it = admission()
    first, other = run_of(line(fit + 10)), run_of(line(1))
    other.id = "other"
    assert it.add(first, 0) == it.add(other, 0) == ""
    found = it.take(1.0, 100)
    assert [len(steps) for taken in found for steps in taken.steps.values()] == [fit - 1]


def test_a_chain_that_nobody_waits_behind_is_longer() -> None:
    """As long as all the work that may be out: two slots, and one message beyond them."""
    it, slow_us = admission(), 10 * STEP_US
    for _ in range(KEPT):
        it.bundling.took("quick", slow_us)
    fit = 3 * CLASS.bundle_us // (slow_us + OVERHEAD_US)
    [steps] = taken(it, run_of(line(fit + 10))).values()
    assert len(steps) == fit - 1


def test_who_does_not_share_a_message_does_not_follow_either() -> None:
    """Unsafe or unwilling executors, those of unknown length, nodes that say so; nor anything while a deadline runs."""
    assert taken(admission(purity="unsafe"), run_of(line(3))) == {}
    assert taken(admission(bundle=False), run_of(line(3))) == {}
    assert taken(admission(), run_of(line(3, "other"))) == {}
    graph = Graph("alone")
    graph.add("quick", key="b", x=graph.add("quick", key="a"), timing=Timing(alone=True))
    assert taken(admission(), run_of(graph)) == {}
    late = run_of(line(3))
    late.deadline_at_ms = 10**15
    assert taken(admission(), late) == {}
    paused = admission()
    paused.heed({("graph", "another"): "somebody says so"})
    assert taken(paused, run_of(line(3))) == {}, "what is paused may be what follows"


def test_a_node_with_steps_gets_a_parcel_though_it_is_alone() -> None:
    """So that its steps are counted as one message in the window of their class; beside others they share theirs."""
    draft = Draft("short", 8, 2, 0, MOST_US)
    run = run_of(line(3))
    assert draft.takes(3 * STEP_US)
    assert draft.takes(STEP_US)
    found = draft.took(run, [0, 1], {0: [1, 2]})
    draft.share_out()
    assert found.parcels[0] is not None
    assert found.parcels[1] is None
    full = Draft("short", 8, 2, 2, MOST_US)
    assert full.takes(3 * STEP_US)
    assert full.takes(STEP_US)
    found = full.took(run, [0, 1], {0: [1, 2]})
    full.share_out()
    assert found.parcels[0] is found.parcels[1]
    assert found.parcels[0] is not None


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_the_places_of_an_output_in_the_inputs_are_told() -> None:
    """Each with the path to what is wanted of it; what comes from elsewhere is none."""
    graph = Graph("holes")
    a = graph.add("quick", key="a")
    b = graph.add("quick", key="b", after=a)
    graph.add("quick", key="c", args=[1, b], x={"deep": [b.out.rows[0], a.out.of_ancestor()]})
    run = run_of(graph)
    assert sorted(holes(run.inputs[2], 1)) == [([0, 1], []), ([1, "x", "deep", 0], ["rows", 0])]
    assert holes(run.inputs[2], 0) == [([1, "x", "deep", 1], [])]
    assert holes(run.inputs[1], 0) == []
    assert holes(run.inputs[0], 0) == []


def test_no_text_of_a_user_is_taken_for_a_place() -> None:
    """Whatever its inputs say, an output goes where the node refers to it, and nowhere else."""
    graph = Graph("odd")
    graph.add("quick", key="b", x=graph.add("quick", key="a"), y="\u0000ref0")
    assert holes(run_of(graph).inputs[1], 0) == [([1, "x"], [])]


def step(*found: tuple[list[Any], list[Any]]) -> dict[str, Any]:
    """A step whose inputs have holes."""
    inputs: list[Any] = [[None], {"x": None, "y": [None]}]
    return {"id": f"7.{RUN_ID}.1.1.1", "inputs": inputs, "holes": [list(it) for it in found]}


def test_an_output_is_put_where_it_belongs() -> None:
    """Whole or in part, in several places; nothing else is touched."""
    it = step(([0, 0], []), ([1, "x"], ["rows", 1]), ([1, "y", 0], ["name"]))
    assert chain.bind(it, b'{"rows": [1, 2], "name": null}')
    assert it["inputs"] == [[{"rows": [1, 2], "name": None}], {"x": 2, "y": [None]}]
    plain = {"inputs": [[1], {}]}
    assert chain.bind(plain, b"whatever, for nobody asks for it")
    assert plain == {"inputs": [[1], {}]}


def test_two_places_do_not_share_what_they_got() -> None:
    """A task that changes its input changes no other."""
    it = step(([0, 0], []), ([1, "x"], []))
    assert chain.bind(it, b'{"rows": [1]}')
    it["inputs"][0][0]["rows"].append(2)
    assert it["inputs"][1]["x"] == {"rows": [1]}


@pytest.mark.parametrize(
    ("output", "path"),
    [
        (b'{"a": 1}', ["b"]),
        (b'{"a": 1}', ["a", "b"]),
        (b'{"a": 1}', [0]),
        (b"[1]", [1]),
        (b"[1]", [-1]),
        (b"[1]", ["0"]),
        (b'"text"', [0]),
        (b"null", ["a"]),
        (b"not JSON", []),
    ],
)
def test_what_the_output_does_not_have_ends_the_chain(output: bytes, path: list[Any]) -> None:
    """The scheduler makes the inputs then, or says what is wrong."""
    assert not chain.bind(step(([0, 0], path)), output)


def test_a_place_that_the_inputs_do_not_have_ends_the_chain() -> None:
    """A scheduler would have to be wrong for that; the worker goes on."""
    for place in ([0, 7], [1, "z", 0], [5]):
        assert not chain.bind(step((place, [])), b"1"), place


def test_what_is_decoded_is_what_a_lone_attempt_gets() -> None:
    """Celery's JSON knows dates and the like, on the way in too."""
    lone = json.dumps({"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"})
    it = step(([0, 0], []))
    assert chain.bind(it, lone.encode())
    assert it["inputs"][0][0].year == 2030


# --- reports --------------------------------------------------------------------------------------------------------


def test_a_report_says_what_goes_on_and_what_was_begun_so() -> None:
    """Both are read back; they are not in the record where there is nothing to say."""
    first, second = (f"7.{RUN_ID}.{n}.1.1" for n in range(2))
    report = Report(first, "succeeded", "w", 5, "inline", goes_on=second, chained=True, chain="5fn")
    assert Report.from_json(report.to_json()) == report
    plain = Report(first, "succeeded", "w", 5, "inline")
    assert not {"goes_on", "chained", "chain"} & json.loads(plain.to_json()).keys()
    odd = json.dumps({**json.loads(plain.to_json()), "chained": 1}).encode()
    assert not Report.from_json(odd).chained, "only true is true"


def test_a_step_in_no_header_is_lost_with_its_process() -> None:
    """It ran, so it takes the loss; those that came by the message go back at no cost."""
    head, behind, running = (f"7.{RUN_ID}.{n}.1.1" for n in range(3))
    what = lost("WorkerLostError", "killed")
    header = {"attempts": f"{head} {behind}"}
    found = {id_: ending.error["type"] for id_, ending in endings_of(f"{head}x3", header, running, what)}
    assert found == {head: GIVEN_BACK, behind: GIVEN_BACK, running: "WorkerLostError"}
    alone = endings_of(f"{head}x2", {"attempts": head}, running, what)
    assert {id_: ending.error["type"] for id_, ending in alone} == {head: GIVEN_BACK, running: "WorkerLostError"}
    assert endings_of(head, None, "nonsense", what) == [(head, what)]
