"""Error records: each has a kind, who is at fault, where the attempt was, and the run's correlation id."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.events import LeaseExpired
from scheduler.core.failures import completed
from scheduler.errors import ERROR_KINDS, ORIGINS, PHASES
from tests.unit.core.compiled import T0, happen, loaded, node, reported, sent


def test_every_kind_has_an_origin_and_a_meaning() -> None:
    """The one table names known origins, and nothing in it is left open."""
    assert {it.origin for it in ERROR_KINDS.values()} == set(ORIGINS)
    assert all(it.meaning and type(it.again) is bool for it in ERROR_KINDS.values())


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_what_a_worker_leaves_out_follows_from_the_kind(kind: str) -> None:
    """A worker of an older version tells no phase and no origin."""
    run = loaded([node()])
    found = completed(run, {"kind": kind, "type": "T", "message": "m", "extra": 1})
    assert found == {
        "kind": kind,
        "type": "T",
        "message": "m",
        "extra": 1,
        "origin": ERROR_KINDS[kind].origin,
        "phase": "execute",
        "correlation_id": run.id,
    }


@pytest.mark.parametrize("wrong", [None, 5, "", "elsewhere", ["policy"], {"policy": 1}])
def test_what_cannot_be_meant_is_put_right(wrong: Any) -> None:
    """Whatever a worker of ours or a forger wrote there: readers may rely on the table's words."""
    found = completed(loaded([node()]), {"kind": wrong, "origin": wrong, "phase": wrong, "correlation_id": wrong})
    assert (found["kind"], found["origin"], found["phase"]) == ("transient", "executor", "execute")
    assert found["origin"] in ORIGINS
    assert found["phase"] in PHASES


def test_what_a_worker_says_of_origin_and_phase_stands() -> None:
    """Who saw the failure knows more of it than the table."""
    told = {"kind": "transient", "origin": "external", "phase": "collect"}
    assert completed(loaded([node()]), told).items() >= told.items()


def test_a_record_carries_the_correlation_id_of_its_client() -> None:
    """Else the run's id, so that there is always one."""
    run = sent(node(max_attempts=1))
    run.correlation_id = "order-7"
    decision = happen(run, reported(run, 0, "failed"), T0 + 5)
    assert decision.moves[0].error is not None
    assert decision.moves[0].error["correlation_id"] == "order-7"


@pytest.mark.parametrize(
    ("claimed_at_ms", "hard_end", "expected"),
    [
        (None, False, ("lost", "infrastructure", "dispatch")),
        (T0, False, ("lost", "infrastructure", "execute")),
        (T0, True, ("timeout", "executor", "execute")),
    ],
)
def test_what_the_scheduler_sees_itself_is_labelled(
    claimed_at_ms: int | None, hard_end: bool, expected: tuple[str, str, str]
) -> None:
    """A message that nobody claimed, a worker that fell silent, an attempt that ran too long."""
    run = sent(node())
    [move] = happen(run, LeaseExpired(0, 1, 1, claimed_at_ms, "w@host", hard_end, 0.5), T0 + 9).moves
    assert move.error is not None
    assert (move.error["kind"], move.error["origin"], move.error["phase"]) == expected
