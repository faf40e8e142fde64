"""Nodes for which very many wait: those are asked for their rule part by part, and nothing else is different."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler import Graph
from scheduler.core.decide import decide
from scheduler.core.events import (
    STALE,
    Admitted,
    CancelRequested,
    Decision,
    Event,
    Followed,
    PauseRequested,
)
from scheduler.core.replay import Replay, Replayer
from scheduler.core.run import FOLLOWED_AT_ONCE, Run
from scheduler.core.states import FIRST_ENDED, IN_FLIGHT, MoveKind, RunState
from tests.unit.core import test_promise
from tests.unit.core.compiled import T0, happen, node, opened, ready, reported, sent
from tests.unit.core.recorded import Journal
from tests.unit.core.test_replay import replayed

AT_ONCE = 2


def few(run: Run) -> Run:
    """Two at once, so that small graphs have nodes for which very many wait."""
    run.at_once = AT_ONCE
    return run


def rest_of(run: Any, decision: Decision, now: int = T0 + 20) -> Iterator[Decision]:
    """What follows in turns to come."""
    left = [(it, AT_ONCE) for it in decision.rest]
    while left:
        number, first = left.pop(0)
        found = happen(run, Followed(number, first, first + AT_ONCE), now)
        left += [(it, AT_ONCE) for it in found.rest]
        if first + AT_ONCE < len(run.downstream(number)):
            left.append((number, first + AT_ONCE))
        yield found


def moved(decision: Decision) -> list[tuple[int, str, int]]:
    """(node, move, cause) of each move."""
    return [(it.node, MoveKind(it.kind).word, it.cause) for it in decision.moves]


def test_very_many_are_asked_part_by_part() -> None:
    """The first of them with the end that they wait for, the others by an event for each part; each because of it."""
    count = 2 * FOLLOWED_AT_ONCE + 5
    run = sent(node(), *(node(0) for _ in range(count)))
    decision = happen(run, reported(run, 0), T0 + 10)
    assert moved(decision) == [(0, "succeed", -1), *((it, "ready", 0) for it in range(1, FOLLOWED_AT_ONCE + 1))]
    assert decision.rest == (0,)
    first = decision.moves[-1]
    for at in (FOLLOWED_AT_ONCE, 2 * FOLLOWED_AT_ONCE):
        part = happen(run, Followed(0, at, at + FOLLOWED_AT_ONCE), T0 + 11)
        assert moved(part) == [(it, "ready", 0) for it in range(at + 1, min(at + FOLLOWED_AT_ONCE, count) + 1)]
        assert {it.why for it in part.moves} == {first.why}
        assert not part.rest
    assert ready(run) == list(range(1, count + 1))


def test_as_many_as_are_asked_at_once_leave_nothing() -> None:
    """The limit itself is not over it."""
    run = sent(node(), *(node(0) for _ in range(FOLLOWED_AT_ONCE)))
    decision = happen(run, reported(run, 0), T0 + 10)
    assert (len(decision.moves), decision.rest) == (FOLLOWED_AT_ONCE + 1, ())


def test_what_ends_in_a_part_is_followed_further() -> None:
    """Upstream failures go on downstream from every part, and the run ends with the last of them and not before."""
    specs = [node(max_attempts=1), *(node(0) for _ in range(5)), *(node(it) for it in range(1, 6))]
    run = few(sent(*specs))
    decision = happen(run, reported(run, 0, "failed"), T0 + 10)
    assert moved(decision)[1:] == [(it, "upstream_fail", cause) for it, cause in ((1, 0), (2, 0), (6, 1), (7, 2))]
    assert decision.run is None
    parts = list(rest_of(run, decision))
    assert [moved(it) for it in parts] == [
        [(it, "upstream_fail", cause) for it, cause in ((3, 0), (4, 0), (8, 3), (9, 4))],
        [(5, "upstream_fail", 0), (10, "upstream_fail", 5)],
    ]
    assert [it.run for it in parts] == [None, RunState.FAILED]


def test_who_waits_for_others_too_is_asked_when_the_last_has_ended() -> None:
    """The end that was not followed yet is counted all the same."""
    specs = [node(), node(), *(node(0, 1) for _ in range(5))]
    run = few(sent(*specs))
    first = happen(run, reported(run, 0), T0 + 10)
    assert moved(first) == [(0, "succeed", -1)]
    second = happen(run, reported(run, 1), T0 + 11)
    assert moved(second) == [(1, "succeed", -1), (2, "ready", 1), (3, "ready", 1)]
    assert [moved(it) for it in rest_of(run, first)] == [[(4, "ready", 0), (5, "ready", 0)], [(6, "ready", 0)]]
    assert [it.stale for it in rest_of(run, second)] == [True, True]


def test_a_part_of_what_is_over_decides_nothing() -> None:
    """The node is open again, the run is being cancelled, or everybody has been asked; a paused run goes on asking."""
    run = few(sent(node(), *(node(0) for _ in range(5))))
    assert decide(run, Followed(0, 0, 9), T0) is STALE
    decision = happen(run, reported(run, 0), T0 + 10)
    happen(run, PauseRequested("", ""), T0 + 11)
    assert [len(it.moves) for it in rest_of(run, decision)] == [2, 1]
    assert decide(run, Followed(0, 0, 9), T0 + 12) is STALE
    assert decide(run, Followed(0, 9, 99), T0 + 12) is STALE
    happen(run, CancelRequested("enough", frozenset()), T0 + 13)
    assert decide(run, Followed(0, 0, 9), T0 + 14) is STALE


def test_where_expressions_see_edges_close_all_are_asked_at_once() -> None:
    """A guard of an edge is decided with the end of its first node, for all of its edges."""
    graph = Graph("guarded")
    first = graph.add("x", key="first")
    for number in range(5):
        graph.add("x", key=f"n{number}", after=[first.when(first.out.value > number)])
    it = Journal(graph)
    few(it.run)
    it.happen(Admitted([0]))
    [decision] = it.happen(it.report(0, "succeeded", random.Random(1), value={"value": 3}))
    assert not decision.rest
    assert len(decision.moves) == 6


class Following(test_promise.World):
    """A world whose scheduler asks two at once, and others in turns to come, if it lives to see them."""

    def load(self) -> None:
        self.left: list[tuple[int, int]] = []
        super().load()

    def apply(self, event: Event) -> Decision:
        few(self.run)
        decision = super().apply(event)
        self.left += [(it, AT_ONCE) for it in decision.rest]
        return decision

    def follow(self) -> None:
        number, first = self.left.pop(0)
        if first + AT_ONCE < len(self.children[number]):
            self.left.append((number, first + AT_ONCE))
        self.apply(Followed(number, first, first + AT_ONCE))

    def step(self, event: Event | None) -> None:
        super().step(event)
        if self.left and self.chance.random() < 0.3:
            self.follow()

    def redeliver(self) -> None:
        if not self.batch:
            while self.left:
                self.follow()
            self.commit()
        super().redeliver()


@pytest.mark.parametrize("chunk", range(5))
def test_every_run_keeps_the_promise_in_parts(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 random graphs: crashes between the parts, what comes between them, and the same end as all at once."""
    monkeypatch.setattr(test_promise, "World", Following)
    for seed in range(chunk * 200, chunk * 200 + 200):
        (test_promise.play_plain if seed % 2 else test_promise.play)(seed)


class Parts(Journal):
    """A journal of parts."""

    def load(self, records: Any = ()) -> Run:
        return few(super().load(records))


def wide_journal(chance: random.Random, kind: type[Journal] = Parts) -> tuple[Journal, int]:
    """A run of nodes for which some wait, played to its end with failures and owners that die; and how many parts of
    those who wait were asked apart.
    """
    graph = Graph("wide")
    keys = ["n0"]
    graph.add("x", key="n0")
    for number in range(1, 14):
        up = chance.sample(keys[-4:], k=chance.randint(1, min(2, len(keys[-4:]))))
        graph.add(
            "x", key=f"n{number}", after=up, trigger_rule=chance.choice(["all_success", "all_done", "one_success"])
        )
        if chance.random() < 0.4:
            keys.append(f"n{number}")
    it = kind(graph)
    left: list[tuple[int, int]] = []
    parts = 0
    while it.run.run_state is RunState.RUNNING:
        events: list[Event] = []
        if left and chance.random() < 0.5:
            number, first = left.pop(0)
            end = first + chance.randint(1, 3)  # a part may be of any size
            if end < len(it.run.downstream(number)):
                left.append((number, end))
            events.append(Followed(number, first, end))
        elif out := [at for at, state in enumerate(it.run.state) if state in IN_FLIGHT]:
            events.append(
                it.report(
                    chance.choice(out), chance.choice(["succeeded", "succeeded", "failed"]), chance, kind="permanent"
                )
            )
        else:
            events.append(Admitted(list(range(it.run.n))))
        if chance.random() < 0.05:
            it.dies()  # who ends by what the next owner finds may have many waiting too
            ended = [at for at, state in enumerate(it.run.state) if state >= FIRST_ENDED]
            left = [(number, AT_ONCE) for number in ended if len(it.run.downstream(number)) > AT_ONCE]
            continue
        for decision in it.happen(*events):
            left += [(number, AT_ONCE) for number in decision.rest]
            parts += isinstance(events[0], Followed) and bool(decision.moves)
    return it, parts


def test_logs_of_parts_are_decided_the_same_again() -> None:
    """Though no line tells of the event: it follows from the cause of its moves."""
    parts = 0
    for seed in range(300):
        it, made = wide_journal(random.Random(seed))
        found = replayed(it)
        assert found.difference is None, f"seed {seed}: {found.difference}"
        assert found.lines == len(it.lines)
        parts += made
    assert parts > 300, "hardly anything was asked in parts"


def replayed_in_parts(it: Journal) -> Replay:
    """The replay of a log by a core that asks two at once."""
    return Replayer(lambda records: few(it.load(records)), it.lines, it.facts_of).replay(it.records)


def test_logs_of_versions_that_knew_no_parts_are_replayed() -> None:
    """All who wait stand behind the end that they wait for."""
    for seed in range(200):
        it, parts = wide_journal(random.Random(seed), Journal)
        assert not parts
        found = replayed_in_parts(it)
        assert found.difference is None, f"seed {seed}: {found.difference}"


def test_a_run_that_was_opened_has_nobody_left_to_ask() -> None:
    """The next owner asks all that are pending, so that nothing of the parts needs to be kept."""
    count = 2 * FOLLOWED_AT_ONCE
    run = opened(node(), *(node(0) for _ in range(count)))
    assert ready(run) == [0]
