"""Replay: what a log says is decided again from nothing, and whatever was changed in it is found."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from scheduler.core.events import CancelRequested, Reported
from scheduler.core.history import History, Line
from scheduler.core.recorded import event_of, record_of
from scheduler.core.replay import Replay, Replayer
from tests.unit.core.recorded import Journal, journal
from tests.unit.core.test_branching_promise import Plan

RUNS_PER_CHUNK, CHUNKS = 100, 10


def drawn(seed: int, *, told: bool = True) -> Journal:
    """A random graph with guards, edges, choices and perhaps a stop, played in a random order."""
    chance = random.Random(seed)
    plan = Plan(chance)
    if chance.random() < 0.2:
        key = chance.choice([it for it, kind in plan.kinds.items() if kind == "work"])
        plan.graph.stop_when(plan.graph.node(key).out.v >= 0)
    return journal(plan.graph, plan.values, chance, told=told)


def replayed(it: Journal, lines: list[Line] | None = None) -> Replay:
    """The replay of a log, compared with the records too."""
    return Replayer(it.load, it.lines if lines is None else lines, it.facts_of).replay(it.records)


def seeds(chunk: int) -> range:
    """CELERIAC_TEST_SEED moves all of them."""
    first = int(os.environ.get("CELERIAC_TEST_SEED", "0")) + chunk * RUNS_PER_CHUNK
    return range(first, first + RUNS_PER_CHUNK)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_log_is_decided_the_same_again(chunk: int) -> None:
    """1,000 random runs with failures, losses, pauses, cancels, retries and owners that die: not one move differs."""
    for seed in seeds(chunk):
        it = drawn(seed)
        found = replayed(it)
        assert found.difference is None, f"seed {seed}: {found.difference}"
        assert found.lines == len(it.lines)
        assert (found.run.run_state, found.run.reason) == (it.run.run_state, it.run.reason)


@pytest.mark.parametrize("chunk", range(2))
def test_logs_of_the_version_before_are_replayed_from_their_lines_alone(chunk: int) -> None:
    """Without a told event: the chance follows from the recorded wait, a cancel from what it cancelled."""
    for seed in seeds(chunk):
        it = drawn(seed, told=False)
        if any(epoch > 1 for epoch in it.run.epoch) and it.run.guards is not None and it.run.guards.wanted:
            continue  # what expressions read of outputs that are gone nobody knows any more
        found = replayed(it)
        assert found.difference is None, f"seed {seed}: {found.difference}"


def test_whatever_is_changed_in_a_log_is_found() -> None:
    """Another word, node, cause, attempt or reason, a line that is missing, or a record that says something else."""
    noticed = 0
    for seed in range(60):
        it = drawn(seed)
        chance = random.Random(seed)
        lines = it.lines
        once = Counter((line.node, line.word, line.attempt) for line in lines)  # a death may repeat a line
        at = chance.choice(
            [at for at, it in enumerate(lines) if it.is_move and once[it.node, it.word, it.attempt] == 1]
        )
        for changed in (
            lines[at]._replace(why=lines[at].why + "!"),
            lines[at]._replace(attempt=lines[at].attempt + 1),
            lines[at]._replace(cause=lines[at].node),
            lines[at]._replace(word="skip" if lines[at].word != "skip" else "ready"),
        ):
            assert replayed(it, [*lines[:at], changed, *lines[at + 1 :]]).difference is not None, (seed, changed)
            noticed += 1
        assert replayed(it, lines[:at] + lines[at + 1 :]).difference is not None, (seed, lines[at])
        it.records[lines[at].node] = it.records.get(lines[at].node, b"P|1|0|0|0||").replace(b"|", b"|9", 1)
        found = replayed(it).difference
        assert found is not None
        assert found.id.startswith("record of node")
    assert noticed > 200


def test_a_difference_tells_both_sides() -> None:
    """The line's id, the event that was decided, what is recorded and what follows."""
    it = drawn(3)
    lines = it.lines
    at = next(at for at, line in enumerate(lines) if line.word == "ready")
    found = replayed(it, [*lines[:at], lines[at]._replace(why="because I say so"), *lines[at + 1 :]]).difference
    assert found is not None
    assert found.id == lines[at].id
    assert found.recorded == [f"node {lines[at].node}: ready: because I say so"]
    assert found.replayed[0].startswith(f"node {lines[at].node}: ready: all_")
    assert found.event.startswith("Opened(")


def test_the_runs_leave_nothing_out() -> None:
    """Every move and every state of a run occur among them, and owners that died."""
    words: set[str] = set()
    reloads = 0
    for seed in range(250):
        it = drawn(seed)
        words |= {line.word for line in it.lines}
        reloads += replayed(it).reloads
    assert {"ready", "dispatch", "succeed", "fail", "retry", "wake", "lose", "skip", "upstream_fail", "cancel"} <= words
    assert {"reopen", "decide", "refuse", "paused", "running", "cancelling"} <= words
    assert {"succeeded", "failed", "cancelled", "rewound"} <= words
    assert reloads


def test_events_are_the_same_after_a_log() -> None:
    """Tuples, sets and facts by path survive JSON; a traceback does not, unless expressions may read it."""
    facts = {("output", ("a", 0)): [1, {"x": None}], ("output", ()): {"$tuple": 1}}
    report = Reported(1, 1, 2, "succeeded", "inline", "w", 5, 6, None, None, 0.25, facts)
    assert event_of(record_of(report, 7)) == report
    cancel = CancelRequested("why", frozenset({3, 1}), 5)
    assert event_of(record_of(cancel, 7)) == cancel
    error = {"kind": "permanent", "type": "A B", "message": "m" * 900, "traceback": "t" * 9_000}
    failed = report._replace(end="failed", facts=None, error=error)
    kept = event_of(record_of(failed, 7)).error  # type: ignore[union-attr]
    assert kept == {"kind": "permanent", "type": "A?B", "message": "m" * 500}
    assert event_of(record_of(failed, 7, whole=True)) == failed
    with pytest.raises(ValueError, match="no event 'Later'"):
        event_of({"event": "Later"})


def test_a_log_can_be_asked_where_a_node_stood() -> None:
    """Before any line; what was cut off at the front shows."""
    it = drawn(5)
    history = History(it.lines)
    run = it.run
    assert {node: history.state(node) for node in range(run.n)} == dict(enumerate(run.state))
    assert history.gaps(run) == []
    half = it.lines[len(it.lines) // 2 :]
    assert History(half).gaps(run)
    first = it.lines[0]
    assert History(it.lines, first.at_ms).state(first.node) >= first.state
