"""The workflow patterns of van der Aalst, ter Hofstede, Russell and Mulyar that graphs can say, one test each.

Numbers are those of the published list of 43. What needs maps, loops, races or sub-runs is not here yet.
"""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.events import Asker, CancelRequested, GraceOver, NodesCancelRequested
from scheduler.errors import CycleFound
from scheduler.graph import Graph
from tests.unit.core.played import Played
from tests.unit.core.test_waits import signal


def nodes(g: Graph, *keys: str, **options: Any) -> list[Any]:
    """Some nodes at once."""
    return [g.add("x", key=key, **options) for key in keys]


def test_1_sequence() -> None:
    """A node starts when the one before it has ended."""
    g = Graph("g")
    [a] = nodes(g, "a")
    nodes(g, "b", after=a)
    play = Played(g)
    assert play.sent == ["a"]
    play.ends("a")
    assert play.sent == ["b"]


def test_2_parallel_split_and_3_synchronization() -> None:
    """One thread becomes several, and several become one when all have come."""
    g = Graph("g")
    [a] = nodes(g, "a")
    nodes(g, "join", after=nodes(g, "b", "c", after=a))
    play = Played(g)
    play.ends("a")
    assert play.sent == ["b", "c"]
    play.ends("c")
    assert play.sent == ["b"]
    play.ends("b")
    assert play.sent == ["join"]


@pytest.mark.parametrize("kind", ["left", "right"])
def test_4_exclusive_choice_and_5_simple_merge(kind: str) -> None:
    """One of several branches runs, and what follows them runs once."""
    g = Graph("g")
    [a] = nodes(g, "a")
    route = g.choice("route", {"left": a.out.kind == "left"}, otherwise="right")
    both = [g.add("x", key=branch, after=route[branch]) for branch in route.branches]
    g.add("x", key="merge", after=both, trigger_rule="one_success")
    play = Played(g)
    play.ends("a", {"kind": kind})
    assert play.sent == [kind]
    play.ends(kind)
    assert play.sent == ["merge"]
    play.ends("merge")
    assert play.run.run_state == "succeeded"


@pytest.mark.parametrize(("score", "chosen"), [(0, []), (5, ["b"]), (9, ["b", "c"])])
def test_6_multi_choice_and_7_structured_synchronizing_merge(score: int, chosen: list[str]) -> None:
    """Any number of branches runs, each by its own guard; the merge waits for those that do, and for no other."""
    g = Graph("g")
    [a] = nodes(g, "a")
    b = g.add("x", key="b", after=a.when(a.out.score > 3))
    c = g.add("x", key="c", after=a.when(a.out.score > 7))
    g.add("x", key="merge", after=[b, c], trigger_rule="none_failed_min_one_success")
    play = Played(g)
    play.ends("a", {"score": score})
    assert play.sent == chosen
    for key in chosen:
        assert play.state("merge") == "pending"
        play.ends(key)
    assert play.state("merge") == ("dispatched" if chosen else "skipped")


def test_9_structured_discriminator() -> None:
    """The first branch that ends lets the join start; the others are heard, and start nothing more."""
    g = Graph("g")
    nodes(g, "join", after=nodes(g, "a", "b", "c"), trigger_rule="one_success")
    play = Played(g)
    play.ends("b")
    assert play.state("join") == "dispatched"
    play.ends("a")
    play.ends("c")
    assert [move for key, move, _ in play.log if key == "join"] == ["ready", "dispatch"]


def test_10_arbitrary_cycles_are_refused() -> None:
    """A raw cycle is refused when the graph is submitted, also one that a guard would make."""
    g = Graph("g")
    [a] = nodes(g, "a", when="b.output.ok")
    nodes(g, "b", after=a)
    with pytest.raises(CycleFound, match="b -> a -> b"):
        g.compile()


def test_11_implicit_termination() -> None:
    """The run ends when nothing is left to do, and without a node that says so."""
    g = Graph("g")
    nodes(g, "a", "b")
    play = Played(g)
    play.ends("a")
    assert play.run.run_state == "running"
    play.ends("b")
    assert play.run.run_state == "succeeded"


@pytest.mark.parametrize(("first", "state"), [("a", "skipped"), ("door", "dispatched")])
def test_18_milestone(first: str, state: str) -> None:
    """A node runs only if, at the moment when it could, another one stands where it must."""
    g = Graph("g")
    [a] = nodes(g, "a")
    [door] = nodes(g, "door")
    g.add("x", key="late", after=a, when=door.state == "succeeded")
    play = Played(g)
    play.ends(first)
    if first == "door":
        play.ends("a")
    assert play.state("late") == state


def test_19_cancel_task() -> None:
    """One task is withdrawn; the case goes on, by a rule that does not need it."""
    g = Graph("g")
    nodes(g, "join", after=nodes(g, "a", "b"), trigger_rule="all_done")
    play = Played(g)
    play.happen(NodesCancelRequested((play.number("a"),), frozenset(), Asker("enough", "ann")))
    assert play.state("a") == "cancelled"
    play.ends("b")
    play.ends("join")
    assert play.run.run_state == "succeeded"


def test_25_cancel_region() -> None:
    """The tasks of a region are withdrawn together, whether they run or not; what lies outside goes on."""
    g = Graph("g")
    [start] = nodes(g, "start")
    with g.region("inside"):
        a, b = nodes(g, "a", "b", after=start)
        [c] = nodes(g, "c", after=[a, b])
    [outside] = nodes(g, "outside", after=start)
    nodes(g, "end", after=[c, outside], trigger_rule="one_success")
    play = Played(g)
    play.ends("start")
    region = tuple(node for node, labels in play.run.labels.items() if labels["region"] == "inside")
    play.happen(NodesCancelRequested(region, frozenset(), Asker("enough", "ann"), region="inside"))
    assert [play.state(key) for key in "abc"] == ["cancelled"] * 3
    play.ends("outside")
    play.ends("end")
    assert play.run.run_state == "succeeded"


def test_20_cancel_case() -> None:
    """A cancelled run starts nothing more: what waits or has not begun is withdrawn at once, work gets time to end."""
    g = Graph("g")
    a, done = nodes(g, "a", "done")
    nodes(g, "b", after=a)
    nodes(g, "c", after=g.signal("paid", after=done))
    play = Played(g)
    play.ends("done")
    play.happen(CancelRequested("enough", frozenset({play.number("a")})))
    assert play.run.run_state == "cancelling"
    assert play.states() == {
        "a": "dispatched",
        "done": "succeeded",
        "b": "cancelled",
        "paid": "cancelled",
        "c": "cancelled",
    }
    play.happen(signal("paid"))
    assert play.state("paid") == "cancelled"
    play.happen(GraceOver())
    assert play.run.run_state == "cancelled"
    assert play.state("a") == "cancelled"
    assert play.timers == {}


@pytest.mark.parametrize(("transient", "state"), [(True, "waiting"), (False, "succeeded")])
def test_23_transient_trigger_and_24_persistent_trigger(transient: bool, state: str) -> None:
    """A trigger that comes while nobody waits for it is lost if it is transient; a persistent one is kept, for one."""
    g = Graph("g")
    [a] = nodes(g, "a")
    paid = g.signal("paid", transient=transient, after=a)
    nodes(g, "b", after=paid)
    play = Played(g)
    play.happen(signal("paid", 1))
    assert play.state("paid") == "pending"
    play.ends("a")
    assert play.state("paid") == state
    play.happen(signal("paid", 2, id_="2-0.0"))
    assert play.values["paid"] == (2 if transient else 1)
    assert play.sent == ["b"]


def test_33_generalized_and_join_and_38_general_synchronizing_merge_are_not_supported() -> None:
    """Both differ from 3 and 7 only where a branch comes round again, so the cycle is what is refused, and named."""
    g = Graph("g")
    [a] = nodes(g, "a")
    [again] = nodes(g, "again", after="join")
    nodes(g, "join", after=[a, again], trigger_rule="none_failed_min_one_success")
    with pytest.raises(CycleFound, match=r"again -> join -> again|join -> again -> join"):
        g.compile()


@pytest.mark.parametrize(("way", "sent"), [("both", ["b", "c"]), ("one", ["b"]), ("none", [])])
def test_37_local_synchronizing_merge(way: str, sent: list[str]) -> None:
    """The merge waits for as many branches as were taken, knowing only its own edges: branches not taken count as done,
    also those in which several nodes follow each other.
    """
    g = Graph("g")
    [a] = nodes(g, "a")
    b = g.add("x", key="b", after=a.when(a.out.way != "none"))
    c = g.add("x", key="c", after=a.when(a.out.way == "both"))
    [d] = nodes(g, "d", after=c)
    nodes(g, "merge", after=[b, d], trigger_rule="none_failed_min_one_success")
    play = Played(g)
    play.ends("a", {"way": way})
    assert play.sent == sent
    if way == "both":
        play.ends("c")
        play.ends("d")
        assert play.state("merge") == "pending"
    if "b" in sent:
        play.ends("b")
    assert play.state("merge") == ("dispatched" if sent else "skipped")


def test_30_structured_partial_join() -> None:
    """Some of all branches are enough; later ones change nothing."""
    g = Graph("g")
    nodes(g, "join", after=nodes(g, "a", "b", "c"), trigger_rule="quorum(2)")
    play = Played(g)
    play.ends("c")
    assert play.state("join") == "pending"
    play.ends("a")
    assert play.state("join") == "dispatched"
    play.ends("b")
    assert play.state("join") == "dispatched"


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_43_explicit_termination(outcome: str) -> None:
    """A condition ends the run, with the outcome that it names, whatever is left to do."""
    g = Graph("g")
    [a] = nodes(g, "a")
    nodes(g, "b", after=a)
    g.stop_when(a.out.done, outcome=outcome)
    play = Played(g)
    play.ends("a", {"done": True})
    assert play.run.run_state == outcome
    assert play.state("b") == "skipped"
