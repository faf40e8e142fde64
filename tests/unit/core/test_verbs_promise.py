"""The promise while people act on nodes: random graphs, random histories, and requests at any instant, with crashes.

The world is that of test_promise.py. Beside what happens there, somebody cancels, skips, completes and re-runs nodes,
in runs that go on and in runs that have ended; requests come twice, and crashes break off what answers them.
`play(seed)` plays a history again.

A request that was broken off is read again before anything newer, for an inbox keeps its order; what it opens again
begins in the next commit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from scheduler.core.events import (
    Asker,
    CompleteRequested,
    Decision,
    Event,
    LeaseExpired,
    NodeGraceOver,
    NodesCancelRequested,
    Opened,
    PriorityRequested,
    Reported,
    RerunRequested,
    ResumeRequested,
    SkipRequested,
)
from scheduler.core.node_verbs import following
from scheduler.core.run import Act, Run
from scheduler.core.states import ENDED_RUNS, LETTERS, NodeState, RunState
from tests.unit.core.compiled import RUN_ID, T0, Spec
from tests.unit.core.test_promise import FINAL, SEEN_AS, World, random_graph

CHUNKS = 20
GRAPHS_PER_CHUNK = 100
REQUESTS = (NodesCancelRequested, SkipRequested, CompleteRequested, RerunRequested, PriorityRequested)
OPENING = (CompleteRequested, RerunRequested)


class Asked(World):
    """A world in which people act on nodes."""

    def __init__(self, specs: list[Spec], chance: random.Random) -> None:
        self.acts: list[Act] = []
        self.asked: frozenset[int] = frozenset()
        self.epochs: dict[tuple[int, int], int] = {}
        self.opens = False
        self.numbers = 0
        self.answered: set[int] = set()
        super().__init__(specs, chance, stops=chance.random() < 0.2)

    # the scheduler

    def load(self) -> None:
        """A run that has ended is not loaded until somebody asks for something; requests are read before all else."""
        records = [(at, record.encode()) for at, record in self.store.records.items()]
        self.run = Run.load(RUN_ID, self.header, self.pages, records, created_at_ms=T0)
        self.run.run_state, self.run.reason = self.store.run
        self.run.deadline_at_ms, self.run.acts = self.deadline, list(self.acts)
        self.run.begun = self.asked - {act.number for act in self.acts}
        self.batch: list[tuple[Event, Decision]] = []
        self.opens = False
        if self.run.run_state not in ENDED_RUNS:
            self.apply(Opened())
            self.commit()
        for event in list(self.store.inbox):
            self.apply(event)
        self.commit()

    def apply(self, event: Event) -> Decision:
        """Whoever asks is answered, and what was asked twice changes nothing."""
        known = {act.number for act in self.run.acts}
        ended = self.run.run_state in ENDED_RUNS
        decision = super().apply(event)
        if isinstance(event, REQUESTS) and not (ended and not isinstance(event, OPENING)):
            assert decision.told is not None, "a request has no answer"
            assert decision.told[1] == event.asker.number
            self.answered.add(event.asker.number)
            if event.asker.number in known or decision.told[0] == "refused":
                assert decision == Decision(told=decision.told), "what was refused, or asked twice, changed something"
            self.opens |= isinstance(event, OPENING)
        return decision

    def commit(self, *, crash: bool = False) -> None:
        """What was opened again asks its rules in a commit of its own."""
        for _, decision in self.batch:
            for move in decision.moves:
                if move.kind == 1:
                    attempt = self.run.attempt[move.node]
                    self.epochs[move.node, attempt] = self.run.epoch[move.node]
        before = self.run
        super().commit(crash=crash)
        if self.opens and self.run is before:
            self.opens = False
            if self.run.run_state not in ENDED_RUNS:
                self.apply(Opened())
                super().commit()

    def first_writes(self) -> list[Callable[[], None]]:
        """Which requests a commit answers is known before anything that they bring."""
        numbers = frozenset(it.act.number for _, it in self.batch if it.act is not None)
        return [partial(setattr, self, "asked", numbers)] if numbers else []

    def further_writes(self) -> list[Callable[[], None]]:
        """Who has asked for what goes with the facts of the run."""
        return [] if self.acts == self.run.acts else [partial(setattr, self, "acts", list(self.run.acts))]

    def is_over(self, event: Event) -> bool:
        """An ended run takes requests that open it again."""
        run = self.run
        if isinstance(event, OPENING):
            return False
        if run.run_state in ENDED_RUNS:
            return True
        if isinstance(event, Reported | LeaseExpired):
            if not 0 <= event.node < run.n or event.attempt != run.attempt[event.node]:
                return True
            return event.epoch != run.epoch[event.node] or LETTERS[run.state[event.node]] not in "DN"
        if isinstance(event, NodeGraceOver):
            return event.node not in run.leaving or run.attempt[event.node] != event.attempt
        return super().is_over(event)

    def write(self, number: int, record: str) -> None:
        """An outcome changes by a new epoch only; what began did so by its rule, or was completed by a person."""
        before = self.store.records.get(number, "P|1|0|0|0||")
        letter, epoch = record[0], int(record.split("|")[1])
        if before[0] in FINAL and epoch == int(before.split("|")[1]):
            assert record in (before, f"{before}n"), "a recorded outcome was changed"
        assert epoch >= int(before.split("|")[1]), "an epoch went back"
        if letter in "DNWSF" and ",completed " not in record.rpartition(";")[2]:
            ends = [SEEN_AS[it] for up in self.specs[number].up if (it := self.store.letter(up)) in FINAL]
            assert self.starts(number, ends), "a node went out before what its rule needs was recorded"
        self.store.records[number] = record

    def write_run(self, state: RunState, reason: str) -> None:
        """It may end once more each time that somebody opens it again."""
        self.ends += state in ENDED_RUNS
        self.store.run = (state, reason)

    def pending_ready(self, run: Run) -> Run:
        """As far as it is recorded: of a node that was opened again only that."""
        return run if self.writes_ready else self.reloaded()

    def check_memory(self, decision: Decision) -> None:
        """As ever; and a run whose last open node was completed ends when it is opened, in the next turn."""
        if self.run.open or self.run.run_state in ENDED_RUNS:
            super().check_memory(decision)

    # what can happen

    def report(self, number: int, attempt: int) -> Reported:
        """Of the epoch in which the attempt was sent."""
        return super().report(number, attempt)._replace(epoch=self.epochs.get((number, attempt), 1))

    def expiry(self, number: int, attempt: int) -> LeaseExpired:
        """The same."""
        return super().expiry(number, attempt)._replace(epoch=self.epochs.get((number, attempt), 1))

    def something(self) -> Event | None:
        """Now and then a request."""
        return self.request() if self.chance.random() < 0.12 else super().something()

    def request(self, *, opening: bool = False) -> Event:
        """Any request, for any nodes."""
        chance, n = self.chance, len(self.specs)
        self.numbers += 1
        asker = Asker("so be it", chance.choice(("", "ann")), self.numbers)
        some = tuple(chance.randrange(n) for _ in range(chance.randint(1, 3)))
        pick = chance.random()
        if opening or pick < 0.4:
            if pick < 0.2:
                return CompleteRequested(some[0], b"1", asker)
            return RerunRequested(some, asker)
        if pick < 0.7:
            claimed = frozenset(at for at, _ in self.in_flight() if chance.random() < 0.5)
            return NodesCancelRequested(some, claimed, asker, chance.random() < 0.3)
        return SkipRequested(some[0], asker) if pick < 0.95 else PriorityRequested(3, asker)

    def due(self) -> Event | None:
        """Timers of attempts that have a grace too."""
        if self.store.timers:
            name, at_ms = min(self.store.timers.items(), key=lambda it: it[1])
            if name.startswith("leave:"):
                self.now = max(self.now, at_ms)
                _, number, attempt = name.split(":")
                return NodeGraceOver(int(number), int(attempt))
        return super().due()

    def step(self, event: Event | None) -> None:
        """Requests stand in the inbox until they are answered, and may come again."""
        if isinstance(event, REQUESTS):
            self.store.inbox.append(event)
            self.old.append(event)
        super().step(event)

    def play(self) -> None:
        """To the end, opened again once or twice, and to the end again."""
        chance = self.chance
        for again in range(chance.randint(1, 3)):
            if again:
                self.load()
                self.step(self.request(opening=True))
                self.commit(crash=chance.random() < 0.5)
            for _ in range(chance.randint(0, 6 * len(self.specs) + 10)):
                if self.store.run[0] in ENDED_RUNS:
                    break
                self.step(self.something())
                if chance.random() < 0.6:
                    asked = any(isinstance(event, REQUESTS) for event, _ in self.batch)
                    self.commit(crash=chance.random() < (0.4 if asked else 0.1))
            self.commit()
            self.finish()
            self.check_end()

    def finish(self) -> None:
        """Everybody does what is left, until the run has ended."""
        for _ in range(60 * len(self.specs) + 60):
            if self.store.run[0] in ENDED_RUNS:
                return
            if self.run.run_state is RunState.PAUSED:
                self.step(ResumeRequested("go", "bob"))
            self.step(self.admission())
            for it in self.in_flight():
                self.step(self.report(*it) if it in self.store.messages else self.expiry(*it))
            self.step(self.due())
            self.commit()

    # the promise

    def check_end(self) -> None:
        """One outcome for each node, with numbers that were given once, and an end that follows from the last nodes."""
        store, specs = self.store, self.specs
        state, reason = store.run
        assert state in ENDED_RUNS, "the run did not end"
        assert reason
        letters = [store.letter(at) for at in range(len(specs))]
        assert set(letters) <= FINAL, f"nodes without an outcome: {letters}"
        run = self.reloaded()
        for at in range(len(specs)):
            tries = list(run.tries(at))
            assert [it.attempt for it in tries] == list(range(1, len(tries) + 1))
            assert all(it.end for it in tries)
            if letters[at] == "S":
                assert tries[-1].end in ("succeeded", "completed")
            by_hand = run.output_kind[at] and letters[at] in "CK"
            completed = bool(tries) and tries[-1].end == "completed"
            if "C" not in letters and not by_hand and not completed:
                ends = [SEEN_AS[letters[up]] for up in specs[at].up]
                assert (letters[at] in "SF") == self.starts(at, ends), "a node's rule and its end do not agree"
        if reason.startswith("cancelled"):
            assert state is RunState.CANCELLED
        elif reason != "the run's deadline passed":
            sinks = [letters[at] for at in range(len(specs)) if not self.children[at]]
            assert state is (RunState.SUCCEEDED if all(it in "SK" for it in sinks) else RunState.FAILED)
        assert {act.number for act in self.acts if act.number} <= self.answered


def play(seed: int) -> Asked:
    """One random graph and one random history of it."""
    chance = random.Random(seed)
    world = Asked(random_graph(chance), chance)
    world.play()
    return world


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_keeps_the_promise_whoever_acts_on_it(chunk: int) -> None:
    """2,000 random graphs: requests of every kind at any instant, twice, late and broken off.

    CELERIAC_TEST_SEED moves all seeds, for histories that nobody has seen yet.
    """
    first = int(os.environ.get("CELERIAC_TEST_SEED", "0")) + chunk * GRAPHS_PER_CHUNK
    for seed in range(first, first + GRAPHS_PER_CHUNK):
        try:
            play(seed)
        except Exception as broken:
            raise AssertionError(f"play({seed}): {type(broken).__name__}: {broken}") from broken


def test_the_histories_leave_nothing_out() -> None:
    """Every verb is heard in some of them, also of ended runs, and nodes come to several epochs."""
    verbs: set[str] = set()
    most = 0
    ends: set[Any] = set()
    for seed in range(200):
        world = play(seed)
        verbs |= {act.verb for act in world.acts}
        most = max(most, *world.run.epoch)
        ends.add(world.ends > 1)
    assert verbs >= {"cancel", "skip", "complete", "rerun", "priority"}
    assert most >= 3
    assert ends == {True, False}


def test_a_plan_is_what_follows() -> None:
    """The preview of a re-run, against its definition: what has ended among the named, and what has begun after any."""
    for seed in range(300):
        chance = random.Random(seed)
        world = Asked(random_graph(chance), chance)
        for _ in range(chance.randint(0, 30)):
            world.step(world.something())
        run = world.run
        named = {chance.randrange(run.n) for _ in range(2)}
        after: set[int] = set()
        for at, spec in enumerate(world.specs):
            if any(up in named or up in after for up in spec.up):
                after.add(at)
        wanted = {at for at in after if run.state[at] != NodeState.PENDING}
        wanted |= {at for at in named if LETTERS[run.state[at]] in FINAL}
        assert following(run, named) == sorted(wanted)
