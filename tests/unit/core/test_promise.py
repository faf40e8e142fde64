"""The promise, on random graphs and random histories: whatever happens in whatever order, each run ends as it should.

A small world plays the rest of the system: a store that keeps what is committed, a scheduler that loads, decides,
commits and crashes between any two writes, and workers that report, repeat themselves, come late or fall silent.
It is written against the promise and the form of the records, not against decide. A failure prints the seed;
`play(seed)` plays that history again.

The world's commits write in an order that survives being cut anywhere, and the service must write so too:
timers that are set, then records (a cause before its effect), then the facts of the run; and only with the last
write what was consumed: inbox entries and timers that were answered, and messages to be sent.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from scheduler.core.decide import decide
from scheduler.core.events import (
    STALE,
    Admitted,
    CancelRequested,
    DeadlinePassed,
    Decision,
    Event,
    GraceOver,
    LeaseExpired,
    NodeGraceOver,
    Opened,
    PauseRequested,
    Reported,
    ResumeRequested,
    RetryDue,
)
from scheduler.core.evolve import evolve
from scheduler.core.rules import RULE_NAMES
from scheduler.core.run import Run
from scheduler.core.states import ENDED_RUNS, LETTERS, MoveKind, NodeState, RunState
from tests.unit.core import airflow
from tests.unit.core.compiled import RUN_ID, T0, Spec, compiled, meaning, node, snapshot

CHUNKS = 50
GRAPHS_PER_CHUNK = 200
FINAL = frozenset("SFKUC")
SEEN_AS = {"S": "success", "F": "failed", "U": "upstream_failed", "C": "upstream_failed", "K": "skipped"}
KINDS = ("transient", "transient", "rate_limited", "timeout", "permanent", "invalid_input", "contract")
LOSSES = ("WorkerLost", "WorkerShutdown", "Malformed")


# --- graphs ---------------------------------------------------------------------------------------------------


def random_graph(chance: random.Random) -> list[Spec]:
    """Up to fourteen nodes (seldom sixty) with any rules, retry policies and queue classes."""
    n = chance.randint(20, 60) if chance.random() < 0.01 else chance.randint(1, 14)
    density = chance.choice((0.1, 0.3, 0.6))
    specs = []
    for at in range(n):
        up = [other for other in range(max(0, at - 12), at) if chance.random() < density]
        rule = chance.choice(RULE_NAMES) if chance.random() < 0.6 else "all_success"
        if up and chance.random() < 0.1:
            rule = f"quorum({chance.randint(1, len(up) + (chance.random() < 0.1))})"
        specs.append(
            node(
                *up,
                rule=rule,
                max_attempts=chance.randint(1, 4),
                base_ms=chance.choice((0, 10, 1000)),
                factor=chance.choice((1, 2.0, 10.0)),
                cap_ms=chance.choice((0, 500, 60_000)),
                max_losses=chance.randint(0, 3),
                queue_class=chance.choice((None, "interactive-low", "standard-low", "batch-high")),
            )
        )
    return specs


def plain_graph(chance: random.Random) -> list[Spec]:
    """all_success everywhere, no retries, losses without a cap: how it ends does not depend on any order."""
    n = chance.randint(1, 14)
    density = chance.choice((0.1, 0.3, 0.6))
    return [
        node(*(other for other in range(at) if chance.random() < density), max_attempts=1, max_losses=1000)
        for at in range(n)
    ]


def naive_ends(specs: list[Spec], fails: set[int]) -> list[str]:
    """How a plain graph ends, by its definition: a node runs if all before it succeeded, and then does as it does."""
    ends: list[str] = []
    for at, spec in enumerate(specs):
        runs = all(ends[up] == "S" for up in spec.up)
        ends.append("U" if not runs else "F" if at in fails else "S")
    return ends


# --- the world ------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """What outlives every process."""

    records: dict[int, str] = field(default_factory=dict)
    run: tuple[RunState, str] = (RunState.RUNNING, "")
    timers: dict[str, int] = field(default_factory=dict)
    inbox: list[Event] = field(default_factory=list)
    messages: set[tuple[int, int]] = field(default_factory=set)
    past_messages: list[tuple[int, int]] = field(default_factory=list)

    def letter(self, number: int) -> str:
        """The recorded state of a node."""
        return self.records[number][0] if number in self.records else "P"

    def attempt(self, number: int) -> int:
        """The recorded attempt of a node."""
        return int(self.records[number].split("|")[2]) if number in self.records else 0


def timer_of(event: Event) -> list[str]:
    """The timer that has become an event."""
    match event:
        case RetryDue(number, attempt):
            return [f"retry:{number}:{attempt}"]
        case DeadlinePassed():
            return ["deadline"]
        case GraceOver():
            return ["grace"]
        case NodeGraceOver(number, attempt):
            return [f"leave:{number}:{attempt}"]
    return []


class World:
    """One run, the store it lives in, and everything that can happen to it.

    Args:
        specs: the graph.
        chance: source of all randomness.
        fails: nodes whose attempts fail; None lets each attempt end by chance.
        stops: whether somebody may cancel the run or its deadline may pass.
    """

    def __init__(self, specs: list[Spec], chance: random.Random, *, fails: set[int] | None = None, stops: bool) -> None:
        self.specs = specs
        self.chance = chance
        self.fails = fails
        self.stops = stops
        self.header, self.pages = compiled(specs, nodes_per_page=chance.choice((3, 1000)))
        self.writes_ready = chance.random() < 0.5
        self.now = T0
        self.deadline = T0 + chance.randint(0, 100_000) if stops and chance.random() < 0.2 else None
        self.store = Store()
        self.children: list[list[int]] = [[] for _ in specs]
        for at, spec in enumerate(specs):
            for up in spec.up:
                self.children[up].append(at)
        self.ends = 0
        self.old: list[Event] = []
        self.run: Run
        self.load()

    # the scheduler

    def load(self) -> None:
        """A scheduler takes the run up: from the store alone, then Opened."""
        store = self.store
        records = [(at, record.encode()) for at, record in store.records.items()]
        self.chance.shuffle(records)
        self.run = Run.load(RUN_ID, self.header, self.pages, records, created_at_ms=T0)
        self.run.run_state, self.run.reason = store.run
        self.run.deadline_at_ms = self.deadline
        self.batch: list[tuple[Event, Decision]] = []
        self.apply(Opened())
        self.commit()

    def apply(self, event: Event) -> Decision:
        """Decide one event and apply what follows, in memory; everything that must hold is checked."""
        run = self.run
        before = snapshot(run)
        decision = decide(run, event, self.now)
        assert snapshot(run) == before, "decide changed the run"
        if run.run_state is RunState.PAUSED:
            assert not any(move.kind == MoveKind.DISPATCH for move in decision.moves), "a paused run sends something"
        assert Decision(stale=True) == STALE, "somebody wrote into STALE"
        if self.is_over(event):
            assert decision.stale, "an event that concerns what is over was not stale"
        if decision.stale:
            assert decision == Decision(stale=True), "a stale event decided something"
        evolve(run, decision, self.now)
        if decision.stale:
            assert snapshot(run) == before, "a stale event changed the run"
        self.check_memory(decision)
        self.batch.append((event, decision))
        return decision

    def is_over(self, event: Event) -> bool:
        """By the words of the promise: a past attempt, an ended node or run, a node that does not exist."""
        run = self.run
        if run.run_state in ENDED_RUNS:
            return True
        if isinstance(event, Reported | LeaseExpired | RetryDue):
            if not 0 <= event.node < run.n or event.attempt != run.attempt[event.node]:
                return True
            if isinstance(event, RetryDue):
                return LETTERS[run.state[event.node]] != "W"
            return event.epoch != 1 or LETTERS[run.state[event.node]] not in "DN"
        return False

    def commit(self, *, crash: bool = False) -> None:
        """Write what the batch changed; with `crash` break off after any number of writes and load again."""
        store, run = self.store, self.run
        writes = self.first_writes()
        dirty: dict[int, None] = {}
        done: list[str] = []
        for event, decision in self.batch:
            writes += [partial(store.timers.__setitem__, timer.name, timer.due_at_ms) for timer in decision.timers]
            for move in decision.moves:
                if self.writes_ready or move.kind != MoveKind.READY:
                    dirty[move.node] = None
            dirty |= dict.fromkeys((*decision.apart, *decision.leaving))
            done += decision.cancelled + timer_of(event)
        writes += [partial(self.write, number, run.record(number)) for number in dirty]
        if store.run != (run.run_state, run.reason):
            writes.append(partial(self.write_run, run.run_state, run.reason))
        writes += self.further_writes()
        events = [event for event, _ in self.batch]
        dispatched = [
            (move.node, run.attempt[move.node]) for _, it in self.batch for move in it.moves if move.kind == 1
        ]

        def last() -> None:
            store.inbox = [it for it in store.inbox if not any(it is event for event in events)]
            for name in done:
                store.timers.pop(name, None)
            store.messages.update(dispatched)
            store.past_messages += dispatched

        writes.append(last)
        self.batch = []
        if crash:
            writes = writes[: self.chance.randrange(len(writes))]
        for write in writes:
            write()
        if crash:
            self.load()
            return
        if self.chance.random() < 0.1:
            assert meaning(self.reloaded()) == meaning(self.pending_ready(run)), "the records do not tell the run"

    def first_writes(self) -> list[Callable[[], None]]:
        """What is harmless alone."""
        return []

    def further_writes(self) -> list[Callable[[], None]]:
        """Facts of the run besides its state."""
        return []

    def write(self, number: int, record: str) -> None:
        """A node's record: the one place where outcomes become facts."""
        before = self.store.letter(number)
        letter = record[0]
        if before in FINAL:
            assert record == self.store.records[number], "a recorded outcome was changed"
        if letter in "DNWSF":
            ends = [SEEN_AS[it] for up in self.specs[number].up if (it := self.store.letter(up)) in FINAL]
            assert self.starts(number, ends), "a node went out before what its rule needs was recorded"
        self.store.records[number] = record

    def write_run(self, state: RunState, reason: str) -> None:
        """The run's own state: it ends once."""
        before = self.store.run[0]
        assert before not in ENDED_RUNS, "a run that had ended changed"
        if state in ENDED_RUNS:
            self.ends += 1
        self.store.run = (state, reason)

    def starts(self, number: int, ends: list[str]) -> bool:
        """Whether a node's rule lets it start, by the independent statement of the rules."""
        spec = self.specs[number]
        return not spec.up or airflow.fires(spec.profile["rule"], ends, len(spec.up))

    def reloaded(self) -> Run:
        """The run as the store has it."""
        records = [(at, record.encode()) for at, record in self.store.records.items()]
        run = Run.load(RUN_ID, self.header, self.pages, records, created_at_ms=T0)
        run.run_state, run.reason = self.store.run
        return run

    def pending_ready(self, run: Run) -> Run:
        """The run in memory, as far as it is recorded: first readiness may not be, for it follows from the rest."""
        if self.writes_ready:
            return run
        records = []
        for at, state in enumerate(run.state):
            first = state == NodeState.READY and run.attempt[at] == 1
            if state != NodeState.PENDING and not first:
                records.append((at, run.record(at).encode()))
        again = Run.load(RUN_ID, self.header, self.pages, records, created_at_ms=T0)
        again.run_state, again.reason = run.run_state, run.reason
        return again

    # what must hold after every step

    def check_memory(self, decision: Decision) -> None:
        """Counts equal a recount from the states; limits are kept; every move that ends a node says why."""
        run = self.run
        letters = [LETTERS[state] for state in run.state]
        assert run.open == sum(it not in FINAL for it in letters)
        assert run.bad == sum(it in "FUC" for at, it in enumerate(letters) if not self.children[at])
        assert run.by_state == [letters.count(it) for it in LETTERS]
        for at, spec in enumerate(self.specs):
            seen = [letters[up] for up in spec.up]
            count = seen.count
            assert run.counts(at) == (len(seen), count("S"), count("F"), count("U") + count("C"), count("K"))
            profile = spec.profile
            assert run.failures[at] <= profile["max_attempts"]
            assert run.losses[at] <= profile["max_losses"] + 1
        touched = set()
        for move in decision.moves:
            assert move.node not in touched, "one event moved a node twice"
            touched.add(move.node)
            assert move.why or move.kind in (MoveKind.SUCCEED, MoveKind.DISPATCH)
        if run.run_state in ENDED_RUNS:
            assert run.open == 0, "a run ended with open nodes"
        else:
            assert run.open > 0 or NodeState.CANCELLED in run.state, "nothing is open and the run has not ended"

    # what can happen

    def in_flight(self) -> list[tuple[int, int]]:
        """(node, attempt) that the store believes to be out."""
        return [(at, self.store.attempt(at)) for at in range(len(self.specs)) if self.store.letter(at) in "DN"]

    def report(self, number: int, attempt: int) -> Reported:
        """A worker's word on an attempt that it got a message for."""
        chance = self.chance
        if self.fails is not None:
            end = "lost" if chance.random() < 0.1 else "failed" if number in self.fails else "succeeded"
        else:
            end = chance.choices(("succeeded", "failed", "lost", "retried"), (6, 3, 1, 1))[0]
        error = None
        if end != "succeeded":
            type_ = chance.choice(LOSSES) if end == "lost" else "Broken"
            error = {"kind": "lost" if end == "lost" else chance.choice(KINDS), "type": type_, "message": "it broke"}
        wait = chance.choice((None, 0, 5, 100_000)) if end in ("failed", "retried") else None
        claimed = chance.choice((None, self.now - 5, self.now))
        worker = chance.choice(("w1@host", "w|;2", ""))
        output = chance.choice(("inline", "blob", "none"))
        return Reported(number, 1, attempt, end, output, worker, claimed, self.now, error, wait, chance.random())

    def expiry(self, number: int, attempt: int) -> LeaseExpired:
        """Nothing was heard of an attempt."""
        chance = self.chance
        claimed = chance.choice((None, self.now - 20))
        hard = self.fails is None and chance.random() < 0.3
        return LeaseExpired(number, 1, attempt, claimed, "w1@host", hard, chance.random())

    def something(self) -> Event | None:
        """Any event, likely or not, sensible or not."""
        chance, store = self.chance, self.store
        pick = chance.random()
        flying = self.in_flight()
        if pick < 0.35:
            running = [it for it in flying if it in store.messages]
            return self.report(*chance.choice(running)) if running else None
        if pick < 0.42:
            return self.expiry(*chance.choice(flying)) if flying else None
        if pick < 0.52 and store.past_messages:
            return self.report(*chance.choice(store.past_messages))
        if pick < 0.62:
            return chance.choice(self.old) if self.old else None
        if pick < 0.66:
            number, attempt = chance.randrange(-2, len(self.specs) + 2), chance.randint(0, 3)
            part = Opened(max(number, 0), max(number, 0) + attempt)
            odd = (RetryDue(number, attempt + 50), self.expiry(number, attempt + 50), GraceOver(), part)
            return chance.choice((*odd, PauseRequested("look", "ann"), ResumeRequested("go", "bob")))
        if pick < 0.80:
            return self.due()
        if pick < 0.84 and self.stops:
            claimed = frozenset(at for at, _ in flying if chance.random() < 0.5)
            return CancelRequested("enough", claimed, chance.choice((None, chance.randint(0, len(self.specs)))))
        return self.admission(chance.random())

    def admission(self, share: float = 1.0) -> Event | None:
        """Room for some of the nodes that are ready."""
        ready = [at for at, state in enumerate(self.run.state) if state == NodeState.READY]
        self.chance.shuffle(ready)
        chosen = [at for at in ready if self.chance.random() <= share]
        return Admitted(chosen) if chosen else None

    def due(self) -> Event | None:
        """The timer that is due next, at its instant."""
        if not self.store.timers:
            return None
        name, at_ms = min(self.store.timers.items(), key=lambda it: it[1])
        self.now = max(self.now, at_ms)
        if name == "deadline":
            return DeadlinePassed()
        if name == "grace":
            return GraceOver()
        _, number, attempt = name.split(":")
        return RetryDue(int(number), int(attempt))

    def step(self, event: Event | None) -> None:
        """An event arrives (those of the inbox are there until a commit has answered them)."""
        if event is None:
            return
        self.now += self.chance.randint(0, 50)
        if isinstance(event, Reported | CancelRequested | PauseRequested | ResumeRequested):
            self.store.inbox.append(event)
            self.old.append(event)
        elif isinstance(event, LeaseExpired | RetryDue):
            self.old.append(event)
        self.apply(event)

    def play(self) -> None:
        """A while of anything, with crashes; then everybody does what is left, until the run has ended."""
        chance = self.chance
        for _ in range(chance.randint(0, 6 * len(self.specs) + 10)):
            self.step(self.something())
            if chance.random() < 0.6:
                stopping = any(isinstance(event, DeadlinePassed | CancelRequested) for event, _ in self.batch)
                self.commit(crash=chance.random() < (0.6 if stopping else 0.12))
                if chance.random() < 0.5:
                    self.redeliver()
            if self.store.run[0] in ENDED_RUNS and chance.random() < 0.3:
                break
        self.commit()
        for turn in range(40 * len(self.specs) + 40):
            if self.store.run[0] in ENDED_RUNS:
                break
            self.redeliver()
            if self.run.run_state is RunState.PAUSED:
                self.step(ResumeRequested("go", "bob"))
            self.step(self.admission())
            for it in self.in_flight():
                if it in self.store.messages:
                    self.step(self.report(*it))
                else:
                    self.step(LeaseExpired(*it[:1], 1, it[1], None, "", False, 0.5))
            self.step(self.due())
            self.commit(crash=turn < 3 and chance.random() < 0.3)
        self.check_end()

    def redeliver(self) -> None:
        """Inbox entries that no commit has answered are read again, by whoever owns the run now."""
        if self.batch:
            return
        for event in list(self.store.inbox):
            self.apply(event)
        self.commit()

    # the promise

    def check_end(self) -> None:
        """What holds of a run that has been played to its end."""
        store, specs = self.store, self.specs
        state, reason = store.run
        assert state in ENDED_RUNS, "the run did not end"
        assert self.ends == 1, f"the run ended {self.ends} times"
        assert reason, "the run ended without a reason"
        letters = [store.letter(at) for at in range(len(specs))]
        assert set(letters) <= FINAL, f"nodes without an outcome: {letters}"
        for at, spec in enumerate(specs):
            self.check_node(at, letters)
            attempt = store.attempt(at)
            lost = [it for it in self.run.tries(at) if it.end == "lost"]
            assert attempt <= spec.profile["max_attempts"] + len(lost)
        if reason == "the run's deadline passed":
            assert state is RunState.FAILED
            assert self.deadline is not None
            assert self.deadline <= self.now
        elif reason == "cancelled: enough":
            assert state is RunState.CANCELLED
            assert self.stops
        else:
            assert "C" not in letters
            sinks = [letters[at] for at in range(len(specs)) if not self.children[at]]
            assert state is (RunState.SUCCEEDED if all(it in "SK" for it in sinks) else RunState.FAILED)
        for event in (*self.old[-10:], Opened(), CancelRequested("late", frozenset())):
            self.apply(event)
        assert self.run.run_state is state

    def check_node(self, at: int, letters: list[str]) -> None:
        """A node's outcome, its reason and its timeline fit each other, its rule and its neighbours."""
        letter, up = letters[at], self.specs[at].up
        tries = list(self.run.tries(at))
        cause = self.run.cause.get(at)
        ends = [SEEN_AS[letters[it]] for it in up]
        if letter == "S":
            assert tries[-1].end == "succeeded"
        elif letter == "F":
            assert tries[-1].end in ("failed", "lost")
        elif letter in "KU":
            assert tries == []
            assert cause in up or self.specs[at].profile["rule"].startswith("quorum(")
        assert [it.attempt for it in tries] == list(range(1, len(tries) + 1))
        assert all(it.end in ("failed", "lost") for it in tries[:-1])
        for it in tries:
            instants = [ms for ms in (it.ready_at_ms, it.dispatched_at_ms, it.claimed_at_ms, it.ended_at_ms) if ms]
            assert instants == sorted(instants)
        if "C" not in letters:
            assert (letter in "SF") == self.starts(at, ends), "a node's rule and its end do not agree"


# --- the tests ------------------------------------------------------------------------------------------------


def play(seed: int) -> World:
    """One random graph and one random history of it."""
    chance = random.Random(seed)
    world = World(random_graph(chance), chance, stops=chance.random() < 0.4)
    world.play()
    return world


def play_plain(seed: int) -> World:
    """One random plain graph, whose end an oracle foretells, and a random history of it."""
    chance = random.Random(seed)
    specs = plain_graph(chance)
    fails = {at for at in range(len(specs)) if chance.random() < 0.2}
    world = World(specs, chance, fails=fails, stops=False)
    world.play()
    assert [world.store.letter(at) for at in range(len(specs))] == naive_ends(specs, fails)
    return world


def _seeds(chunk: int) -> range:
    first = int(os.environ.get("CELERIAC_TEST_SEED", "0")) + chunk * GRAPHS_PER_CHUNK
    return range(first, first + GRAPHS_PER_CHUNK)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_keeps_the_promise(chunk: int) -> None:
    """10,000 random graphs: crashes, duplicates, silence, pauses, cancels and deadlines in any order.

    Every fifth is a plain graph, whose end an oracle knows beforehand.
    CELERIAC_TEST_SEED moves all seeds, for histories that nobody has seen yet.
    """
    for seed in _seeds(chunk):
        try:
            (play_plain if seed % 5 == 0 else play)(seed)
        except Exception as broken:
            name = "play_plain" if seed % 5 == 0 else "play"
            raise AssertionError(f"{name}({seed}): {type(broken).__name__}: {broken}") from broken


def test_the_histories_leave_nothing_out() -> None:
    """Among a few hundred of them every node state, every end of a run and every long story occurs."""
    letters: set[str] = set()
    ends: set[Any] = set()
    most_tries = 0
    for seed in range(1, 300):
        world = play(seed)
        letters |= {world.store.letter(at) for at in range(len(world.specs))}
        ends.add((world.store.run[0], world.store.run[1] == "the run's deadline passed"))
        most_tries = max(most_tries, *(len(list(world.run.tries(at))) for at in range(len(world.specs))))
    assert letters == FINAL
    assert ends == {
        (RunState.SUCCEEDED, False),
        (RunState.FAILED, False),
        (RunState.FAILED, True),
        (RunState.CANCELLED, False),
    }
    assert most_tries >= 5
