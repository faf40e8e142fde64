"""Runs for the tests of core: graphs in the compiled form that the store keeps, written down by hand.

Knows the form from its description alone (core/run.py), not from the compiler, so that the two are checked
against each other by whoever reads both.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from scheduler.core.decide import decide
from scheduler.core.events import Admitted, Decision, Event, Opened, Reported
from scheduler.core.evolve import evolve
from scheduler.core.run import Run
from scheduler.core.states import NodeState, RunState

T0 = 1_700_000_000_000
"""When the runs of these tests were created, ms since 1970."""
PROFILE: dict[str, Any] = {
    "executor": "test.echo",
    "queue_class": None,
    "rule": "all_success",
    "max_attempts": 3,
    "base_ms": 1000,
    "factor": 2.0,
    "cap_ms": 60_000,
    "max_losses": 5,
    "timeout_ms": 3_600_000,
    "soft_timeout_ms": None,
}
RUN_ID = "01jd0c0000000000000000000a"


class Spec(NamedTuple):
    """One node: the numbers of its upstream nodes, its profile, its inputs as the store keeps them."""

    up: tuple[int, ...]
    profile: dict[str, Any]
    inputs: str | list[Any] = "[],{}"


def node(*up: int, inputs: str | list[Any] = "[],{}", **profile: Any) -> Spec:
    """A node after the nodes `up`; profile fields as in the compiled form, such as rule or max_attempts."""
    return Spec(up, PROFILE | profile, inputs)


def compiled(specs: Sequence[Spec], *, nodes_per_page: int = 1000) -> tuple[dict[str, Any], list[bytes]]:
    """(header, pages) of a graph."""
    profiles: dict[str, tuple[int, dict[str, Any]]] = {}
    numbers = [profiles.setdefault(repr(spec.profile), (len(profiles), spec.profile))[0] for spec in specs]
    pages = []
    for first in range(0, len(specs), nodes_per_page):
        mine = specs[first : first + nodes_per_page]
        page = {
            "v": 1,
            "first": first,
            "keys": [f"n{first + at}" for at in range(len(mine))],
            "profile": numbers[first : first + nodes_per_page],
            "up": [list(spec.up) for spec in mine],
            "inputs": [spec.inputs for spec in mine],
            "labels": {},
        }
        pages.append(zlib.compress(json.dumps(page, separators=(",", ":")).encode(), 1))
    header = {
        "v": 1,
        "name": "test",
        "hash": "0" * 32,
        "nodes": len(specs),
        "pages": len(pages),
        "edges": sum(len(spec.up) for spec in specs),
        "profiles": [profile for _, profile in profiles.values()],
        "returns": None,
    }
    return header, pages


def loaded(specs: Sequence[Spec], records: Iterable[tuple[int, bytes]] = (), *, nodes_per_page: int = 1000) -> Run:
    """A run as the store would give it back: the graph, and the records of the nodes that moved."""
    header, pages = compiled(specs, nodes_per_page=nodes_per_page)
    return Run.load(RUN_ID, header, pages, records, created_at_ms=T0)


def opened(*specs: Spec) -> Run:
    """A run of a graph that has just begun."""
    run = loaded(specs)
    happen(run, Opened(), T0)
    return run


def sent(*specs: Spec) -> Run:
    """A run of a graph whose ready nodes have been dispatched."""
    run = opened(*specs)
    happen(run, Admitted(ready(run)), T0)
    return run


def happen(run: Run, event: Event, now: int) -> Decision:
    """Decide an event and apply what follows, as the loop does."""
    decision = decide(run, event, now)
    evolve(run, decision, now)
    return decision


def reported(
    run: Run,
    number: int,
    end: str = "succeeded",
    *,
    kind: str = "transient",
    type_: str = "Broken",
    at_ms: int = T0,
    attempt: int | None = None,
    retry_after_ms: int | None = None,
    chance: float = 0.5,
    epoch: int = 1,
    claimed_at_ms: int | None = T0,
) -> Reported:
    """A worker's report on a node's current attempt (or on `attempt`)."""
    error = None if end == "succeeded" else {"kind": kind, "type": type_, "message": "it broke", "origin": "executor"}
    output = "inline" if end == "succeeded" else "none"
    number_of = (run.attempt[number] if number < run.n else 1) if attempt is None else attempt
    return Reported(
        number, epoch, number_of, end, output, "w@host", claimed_at_ms, at_ms, error, retry_after_ms, chance
    )


def words(run: Run) -> list[str]:
    """The state of each node, as a word."""
    return [NodeState(state).word for state in run.state]


def ready(run: Run) -> list[int]:
    """The nodes that may be admitted."""
    return [number for number, state in enumerate(run.state) if state == NodeState.READY]


def snapshot(run: Run) -> tuple[Any, ...]:
    """All that an event may change in a run."""
    return (
        bytes(run.state),
        run.attempt.tobytes(),
        run.epoch.tobytes(),
        run.failures.tobytes(),
        run.losses.tobytes(),
        run.excused.tobytes(),
        run.tally.tobytes(),
        run.ready_at.tobytes(),
        run.dispatched_at.tobytes(),
        bytes(run.output_kind),
        dict(run.past),
        dict(run.ended),
        dict(run.cause),
        run.run_state,
        run.reason,
        run.open,
        run.bad,
        list(run.by_state),
        dict(run.leaving),
        list(run.acts),
        (run.deadline_at_ms, run.priority),
    )


class Meaning(NamedTuple):
    """What a run in memory means, apart from how it came there."""

    records: list[str]
    tries: list[list[Any]]
    counts: list[tuple[int, int, int, int, int]]
    causes: dict[int, int]
    open: int
    bad: int
    run: tuple[RunState, str]


def meaning(run: Run) -> Meaning:
    """Equal for two runs that will answer every event alike and tell the same history."""
    return Meaning(
        [run.record(at) for at in range(run.n)],
        [list(run.tries(at)) for at in range(run.n)],
        [run.counts(at) for at in range(run.n)],
        dict(run.cause),
        run.open,
        run.bad,
        (run.run_state, run.reason),
    )


def rebuilt(run: Run, specs: Sequence[Spec]) -> Run:
    """The run again, from nothing but the records of its nodes and the facts that the store keeps of it."""
    records = [
        (at, run.record(at).encode())
        for at, state in enumerate(run.state)
        if state != NodeState.PENDING or run.epoch[at] > 1
    ]
    again = loaded(specs, records)
    again.run_state, again.reason, again.deadline_at_ms = run.run_state, run.reason, run.deadline_at_ms
    return again
