"""Races, played through the core: the first to succeed are kept, the others withdrawn. Workflow patterns 16, 29, 32."""

from __future__ import annotations

import json

import pytest

from scheduler.core.decide import decide
from scheduler.core.events import STALE, Signalled, WaitOver
from scheduler.core.states import RunState
from scheduler.errors import GraphError
from scheduler.graph import Graph, Retry, within
from tests.unit.core.played import Played


def test_pattern_16_deferred_choice() -> None:
    """16: of a signal and a timer whichever comes first is taken; the other is withdrawn with its timer."""
    for signal_first in (True, False):
        g = Graph("g")
        first = g.race("first", [g.signal("paid"), g.timer("late", "3d")])
        g.add("x", key="ship", when=within("paid", first.out.winners), after=first)
        g.add("x", key="remind", when=within("late", first.out.winners), after=first)
        play = Played(g)
        paid, late = (play.run.keys.index(key) for key in ("paid", "late"))
        if signal_first:
            play.happen(Signalled("1-0.0", "paid", "", "", b"1"))
            assert play.timers == {}
            assert decide(play.run, WaitOver(late, 1, 0.5), play.now) is STALE
        else:
            play.happen(WaitOver(late, 1, 0.5))
            assert play.happen(Signalled("1-0.0", "paid", "", "", b"1")).moves == []
        won, lost = (paid, late) if signal_first else (late, paid)
        assert play.values["first"] == {"winners": [play.run.keys[won]]}
        assert play.state(play.run.keys[lost]) == "cancelled"
        assert play.sent == ["ship" if signal_first else "remind"]


def three(keep: int) -> Played:
    """Three branches, of which so many are kept; and one that goes on behind each."""
    g = Graph("g")
    branches = [g.add("x", key=key, retry=Retry(2)) for key in ("a", "b", "c")]
    g.add("x", key="next", after=g.race("race", branches, keep=keep))
    g.add("x", key="of b", after="b")
    return Played(g)


def test_pattern_29_cancelling_discriminator() -> None:
    """29: the first of three starts what follows, and the two others are cancelled, running or waiting for a retry."""
    play = three(1)
    play.fails("b", "transient")
    assert play.state("b") == "waiting"
    play.ends("a")
    assert play.states() == {
        "a": "succeeded",
        "b": "cancelled",
        "c": "cancelled",
        "race": "succeeded",
        "next": "dispatched",
        "of b": "upstream_failed",
    }
    assert play.timers == {}
    assert "was won by 'a'" in play.why("c")
    assert play.values["c"]["type"] == "Withdrawn"
    play.ends("next")
    assert play.run.run_state is RunState.FAILED  # for "of b" is a last node, and did not succeed


def test_pattern_32_cancelling_partial_join() -> None:
    """32: two of three are kept; the third is cancelled when the second has succeeded, not before."""
    play = three(2)
    play.ends("a")
    assert play.state("c") == "dispatched"
    play.ends("c")
    assert (play.state("b"), play.values["race"]) == ("cancelled", {"winners": ["a", "c"]})


def test_a_race_that_nobody_can_win_is_lost() -> None:
    """When too few can still succeed it ends as its rule says, and cancels nobody."""
    play = three(2)
    for key in ("a", "b"):
        play.fails(key)
    assert (play.state("race"), play.state("c")) == ("upstream_failed", "dispatched")


def test_a_race_whose_members_end_together_takes_them_all() -> None:
    """Two that one decision ends have both won; there is nothing to withdraw."""
    g = Graph("g")
    a = g.add("x", key="a")
    forks = [g.choice(key, {"yes": a.out.ok == "yes"}, otherwise="no") for key in ("p", "q")]
    g.race("race", forks)
    play = Played(g)
    play.ends("a", {"ok": "yes"})
    assert play.state("race") == "succeeded"
    assert play.values["race"] == {"winners": ["p", "q"]}
    assert play.run.run_state is RunState.SUCCEEDED


def test_a_race_is_the_same_from_python_and_from_a_document() -> None:
    """One canonical form and one hash; what makes no sense is refused where it is written."""
    g = Graph("g")
    g.race("r", [g.add("x", key="a"), g.timer("t", "1s")], keep=2, labels={"team": "ops"})
    document = json.loads(g.to_json())
    assert document["nodes"][2] == {"keep": 2, "key": "r", "labels": {"team": "ops"}, "race": ["a", "t"]}
    assert Graph.from_document(document).hash == g.hash
    assert Graph.from_yaml(g.to_yaml()).hash == g.hash
    for members, keep, why in (([], 1, "are not 1 to"), (["a", "a"], 1, "are not 1 to"), (["a"], 2, "out of range")):
        with pytest.raises(GraphError, match=why):
            g.race("other", members, keep=keep)
    broken = Graph("broken")
    broken.race("r", ["nobody"])
    with pytest.raises(GraphError, match="nobody"):
        broken.compile()
