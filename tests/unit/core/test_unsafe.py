"""What an unsafe executor changes: work of it that may have begun is not repeated unless the node says so."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.events import Event, LeaseExpired
from scheduler.core.recorded import event_of, record_of
from scheduler.core.retry import UNSAFE_LOST
from scheduler.core.states import MoveKind
from tests.unit.core.compiled import T0, happen, node, reported, sent, words

AGAIN = {"step": "again", "on": ["transient"], "attempts": 3}


def lost(run: Any, how: str) -> Event:
    """The loss of the first node's attempt, whose executor is unsafe."""
    if how in ("silent worker", "never claimed"):
        claimed = T0 if how == "silent worker" else None
        return LeaseExpired(0, 1, run.attempt[0], claimed, "w@host", hard_end=False, chance=0.5, unsafe=True)
    types = {"killed": "WorkerLostError", "shut down": "WorkerShutdown", "rewound": "StoreRewound"}
    claimed = None if how == "rewound" else T0
    return reported(run, 0, "lost", kind="lost", type_=types[how], claimed_at_ms=claimed)._replace(unsafe=True)


@pytest.mark.parametrize("how", ["silent worker", "killed", "shut down", "rewound"])
def test_what_may_have_begun_is_not_repeated(how: str) -> None:
    """However a claimed attempt was lost, or one of which the store has forgotten whether: its node fails, and why."""
    run = sent(node(max_losses=5), node(0))
    decision = happen(run, lost(run, how), T0)
    assert words(run) == ["failed", "upstream_failed"]
    assert (decision.moves[0].kind, decision.moves[0].why) == (MoveKind.FAIL, UNSAFE_LOST)
    error = decision.moves[0].error
    assert error is not None
    assert error["kind"] == "lost"
    assert "may have begun is not repeated" in error["message"]
    assert [it.end for it in run.tries(0)] == ["lost"]


def test_what_no_worker_has_taken_is_sent_again() -> None:
    """A message that vanished has done nothing, whatever its executor would have done."""
    run = sent(node())
    assert happen(run, lost(run, "never claimed"), T0).moves[0].kind == MoveKind.LOSE
    assert words(run) == ["ready"]


@pytest.mark.parametrize(("on", "state"), [(["lost"], "waiting"), (["timeout"], "failed")])
def test_the_node_s_own_ladder_may_answer(on: list[str], state: str) -> None:
    """A declared step that answers losses decides what happens instead; one that answers others does not."""
    run = sent(node(steps=[AGAIN, {"step": "other", "on": on, "executor": "check.first"}]))
    happen(run, lost(run, "killed"), T0)
    assert words(run) == [state]
    if state == "waiting":
        assert (run.way(0).executor, run.failures[0]) == ("check.first", 1)


def test_the_log_keeps_the_fact() -> None:
    """The event is told whole, so a replay decides the same whatever the contract says by then."""
    run = sent(node())
    event = lost(run, "silent worker")
    assert event_of(record_of(event, T0)) == event
    assert "unsafe" not in record_of(event._replace(unsafe=False), T0)  # type: ignore[call-arg]  # a LeaseExpired
