"""Chains and the scheduler: what a worker has begun is adopted, whoever dies; what is stale leaves nothing behind."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from scheduler import Client, WaitTimeout
from scheduler.core.history import GOES_ON
from scheduler.graph import Graph, Retry
from scheduler.service.transport import MemoryTransport
from scheduler.store.attempts import Attempts, Claim, Onward, Verdict
from scheduler.wire import BUNDLE, BUNDLES, CHAINED, Report, RunId, error_record
from scheduler.worker import chain
from scheduler.worker.entries import entries_in
from tests.integration.echo import Echo, Task, tasks
from tests.integration.invariants import check
from tests.integration.lives import Fate, Life
from tests.integration.stage import Stage, eventually, idle

LEASE_MS = 30_000
PLACE = f"standard-low|{LEASE_MS}|60000"
SECONDS = 20


def line(length: int) -> Graph:
    """Nodes each of which takes the output of the one before; a lost attempt is tried again soon."""
    graph = Graph("line", retry=Retry(3, base_seconds=0.01, cap_seconds=0.02))
    before = graph.add("echo", key="n0", value=0)
    for n in range(1, length):
        before = graph.add("echo", key=f"n{n}", value=before)
    return graph


def takes_bundles(stage: Stage) -> None:
    """As if a worker were there that reads messages of several, and whose executor is known to be short."""
    stage.publish("echo", expected_seconds=0.001)
    said = {
        "queue_class": "standard-low",
        "concurrency": 1,
        "heartbeat_seconds": 600,
        "queues": [],
        "bundles": [BUNDLES],
    }
    stage.attempts.announce_worker("w@here", said)


class Hand:
    """A worker played by hand: one chain, step by step."""

    def __init__(self, stage: Stage, run: RunId, name: str = "hand") -> None:
        self.attempts, self.name, self.token = stage.attempts, name, f"{name}1"
        self.ids = [stage.attempt(run, node) for node in range(9)]
        self.head = 0

    def begins(self, node: int = 0) -> None:
        """Claims the attempt that came by a message."""
        self.head = node
        assert self.attempts.claim([self.ids[node]], self.name, self.token)[0].verdict is Verdict.GRANTED

    def goes_on(self, node: int, output: Any = None) -> Claim:
        """Ends a node well and begins the one behind it."""
        report, said = self._told(node, output, chained=node > self.head)
        tokens = self.token + CHAINED if report.chained else self.token, self.token + CHAINED
        [claim] = self.attempts.proceed([Onward(report, said, self.ids[node + 1], PLACE, tokens)], self.name)
        return claim

    def ends(self, node: int, output: Any = None, *, chained: bool) -> None:
        """Ends a node well, and the chain with it."""
        self.attempts.report([self._told(node, output, chained=chained)])

    def _told(self, node: int, output: Any, *, chained: bool) -> tuple[Report, bytes]:
        chain = self.token + CHAINED if chained else ""
        report = Report(self.ids[node], "succeeded", self.name, 1, "inline", chained=chained, chain=chain)
        return report, json.dumps(output).encode()


def is_out(stage: Stage, run: RunId, node: int = 0, attempt: int = 1) -> None:
    """Wait until an attempt is on its way to a worker."""
    id_ = stage.attempt(run, node, attempt)
    eventually(lambda: stage.in_flight().get(id_, "").startswith("s"), f"{id_} is out")


def begun(stage: Stage, run: RunId) -> list[int]:
    """The nodes that were begun with the report of the one before, in order."""
    return [node for node, word, *_, why in stage.moves(run) if word == "dispatch" and why == GOES_ON]


def all_once(stage: Stage, run: RunId) -> None:
    """Every node succeeded with its first attempt."""
    loaded = stage.load(run)
    assert set(stage.states(run).values()) == {"succeeded"}
    assert set(loaded.attempt) == {1}


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    """A client of the stage."""
    with Client(stage.url, namespace=stage.namespace) as found:
        yield found


# -- one scheduler after the other ---------------------------------------------------------------------


def test_the_scheduler_follows_a_chain(stage: Stage, memory: MemoryTransport) -> None:
    """One message; each next step is dispatched by the report of the one before, and lets go with its own."""
    takes_bundles(stage)
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(line(4))
        eventually(lambda: memory.sent, "the message")
        [entries] = [entries_in(json.loads(body)[0][0]) for _, body, _ in memory.sent]
        hand = Hand(stage, run)
        assert [it["id"] for it in (entries[0], *entries[0]["then"])] == hand.ids[:4]
        hand.begins()
        for node in range(3):
            assert hand.goes_on(node).verdict is Verdict.GRANTED
        eventually(lambda: len(begun(stage, run)) == 3, "the last has begun")
        assert sum(scheduler._dispatch.admission.flying.values()) == 1, "one message is out, whatever it has come to"
        hand.ends(3, chained=True)
        assert stage.ended(run) == ["succeeded"]
        assert len(memory.sent) == 1
        assert sum(scheduler._dispatch.admission.flying.values()) == 0
    assert begun(stage, run) == [1, 2, 3]
    all_once(stage, run)
    idle(stage)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_step_that_ends_well_in_its_grace_has_succeeded(
    stage: Stage, memory: MemoryTransport, client: Client, by_name: bool
) -> None:
    """A run, or a node of it, is cancelled while a step runs: what that comes to counts, and nobody waits for
    the end of its grace.
    """
    takes_bundles(stage)
    with stage.scheduler(memory):
        run = stage.submit(line(4))
        is_out(stage, run)
        hand = Hand(stage, run)
        hand.begins()
        assert hand.goes_on(0, "first").verdict is Verdict.GRANTED
        eventually(lambda: begun(stage, run) == [1], "the second has begun")
        client.run(run).cancel("enough", nodes=["n1"] if by_name else None)
        eventually(lambda: hand.ids[1] not in stage.in_flight(), "it has been let go")
        assert hand.goes_on(1, "second").verdict is Verdict.STALE
        hand.ends(1, "second", chained=True)
        if by_name:
            is_out(stage, run, 2)
            other = Hand(stage, run, "other")
            other.begins(2)
            other.goes_on(2)
            other.ends(3, chained=True)
        assert stage.ended(run) == ["succeeded" if by_name else "cancelled"]
    assert list(stage.states(run).values())[:2] == ["succeeded"] * 2
    assert "late" not in stage.words(run, 1)
    idle(stage)


@pytest.mark.parametrize("went_on", [1, 2, 4])
def test_what_was_begun_while_nobody_scheduled_is_taken_over(
    stage: Stage, memory: MemoryTransport, went_on: int
) -> None:
    """Reports and claims that no scheduler has seen yet: the next one takes them as they are, and sends nothing."""
    with stage.scheduler(memory):
        run = stage.submit(line(6))
        is_out(stage, run)
    hand = Hand(stage, run)
    hand.begins()
    for node in range(went_on):
        assert hand.goes_on(node).verdict is Verdict.GRANTED
    with stage.scheduler(memory):
        eventually(lambda: len(begun(stage, run)) == went_on, "it is taken over")
        for node in range(went_on, 5):
            assert hand.goes_on(node).verdict is Verdict.GRANTED
        hand.ends(5, chained=True)
        assert stage.ended(run) == ["succeeded"]
    assert len(memory.sent) == 1
    all_once(stage, run)
    idle(stage)


@pytest.mark.parametrize("went_on", [1, 3])
def test_a_step_whose_worker_died_meanwhile_is_lost(stage: Stage, memory: MemoryTransport, went_on: int) -> None:
    """Its lease has run out when the next scheduler comes: those before it count, it is tried again, by a message."""
    with stage.scheduler(memory):
        run = stage.submit(line(5))
        is_out(stage, run)
    hand = Hand(stage, run)
    hand.begins()
    for node in range(went_on):
        assert hand.goes_on(node).verdict is Verdict.GRANTED
    stage.lease_ends(*hand.ids[: went_on + 1])
    with stage.scheduler(memory):
        is_out(stage, run, went_on, attempt=2)
        hand.ends(went_on, "too late", chained=True)
        again = Hand(stage, run, "again")
        again.ids[went_on] = stage.attempt(run, went_on, 2)
        again.begins(went_on)
        for node in range(went_on, 4):
            assert again.goes_on(node, 7).verdict is Verdict.GRANTED
        again.ends(4, chained=True)
        assert stage.ended(run) == ["succeeded"]
    assert list(stage.load(run).attempt) == [1] * went_on + [2] + [1] * (4 - went_on)
    assert stage.runs.values(run, [went_on]) == {went_on: b"7"}
    assert len(memory.sent) == 2
    idle(stage)


class Chains(Echo):
    """A worker that takes chains, and does each node once.

    Attributes:
        holds_back: whether the last step of a message is reported only when `release` is called.
    """

    holds_back = False

    def __init__(self, attempts: Attempts) -> None:
        super().__init__(attempts)
        self.held: list[tuple[Report, bytes | None]] = []
        self._number = itertools.count()

    def take(self, tasks: Iterable[Task]) -> None:
        """Messages of one attempt and of several."""
        for task in tasks:
            for entry in entries_in(task.args[0]) if task.executor == BUNDLE else ():
                self._run(entry)
            if task.executor != BUNDLE:
                super().take([task])

    def _run(self, entry: dict[str, Any]) -> None:
        token = f"chain{next(self._number)}"
        if self.attempts.claim([entry["id"]], self.name, token)[0].verdict is not Verdict.GRANTED:
            return
        own, chained = token, False
        for step in (*entry.get("then", ()), None):
            args, kwargs = entry["inputs"]
            self.done.append(Task(entry["id"], entry["task"], args, kwargs, {"celeriac": entry["celeriac"]}))
            output = json.dumps(kwargs).encode()
            report = Report(
                entry["id"], "succeeded", self.name, 1, "inline", chained=chained, chain=own if chained else ""
            )
            if step is None or not chain.bind(step, output):
                (self.held.append if self.holds_back else self._tell)((report, output))
                return
            tokens = own, token + CHAINED
            [claim] = self.attempts.proceed([Onward(report, output, step["id"], step["claim"], tokens)], self.name)
            assert claim.verdict is Verdict.GRANTED
            entry, own, chained = step, token + CHAINED, True

    def _tell(self, one: tuple[Report, bytes | None]) -> None:
        self.attempts.report([one])

    def release(self) -> bool:
        """Report what was held back; False, for the scheduler shall go on."""
        held, self.held = self.held, []
        self.attempts.report(held)
        return False


@pytest.mark.parametrize("length", [2, 4])
@pytest.mark.parametrize("holds_back", [False, True], ids=["all ended", "the last runs"])
def test_a_death_between_any_two_writes_changes_no_chain(
    redis_url: str, fate: Fate, length: int, holds_back: bool
) -> None:
    """Killed at every instant in turn, also between the record of one step and that of the next: each is done once."""
    stage = Stage(redis_url, shards=1)
    takes_bundles(stage)
    worker = Chains(stage.attempts)
    worker.holds_back = holds_back
    life = Life(stage, fate, worker)
    for dies_at in itertools.count(1):
        run = stage.submit(line(length))
        survived = life.live(dies_at, lambda: worker.release() or stage.quiet())
        if not survived:
            assert life.live(until=lambda: worker.release() or stage.quiet()), f"killed at instant {dies_at}"
        assert stage.quiet(), f"killed at instant {dies_at}, something is left: {stage.in_flight()}"
        mine = Counter(task.node for task in worker.done if run in task.id)
        assert mine == Counter(f"n{n}" for n in range(length)), f"killed at instant {dies_at}"
        all_once(stage, run)
        if survived:
            break
    assert dies_at > 10
    assert begun(stage, run) == list(range(1, length))
    check(stage.client, idle=True)


# -- what counts for nothing ---------------------------------------------------------------------------


def test_what_goes_on_from_an_end_that_is_not_the_first_is_void(
    stage: Stage, memory: MemoryTransport, client: Client
) -> None:
    """A person completed the head before its worker reported and went on: the next node takes the person's value, by a
    message, and what the worker begins is nobody's outcome.
    """
    with stage.scheduler(memory):
        run = stage.submit(line(3))
        is_out(stage, run)
    hand = Hand(stage, run)
    hand.begins()
    with pytest.raises(WaitTimeout):
        client.run(run).complete("n0", "by hand", timeout=0.1)
    assert hand.goes_on(0, "from the worker").verdict is Verdict.GRANTED
    with stage.scheduler(memory):
        is_out(stage, run, 1)
        assert hand.goes_on(1).verdict is Verdict.STALE
        hand.ends(1, "from the worker", chained=True)
        other = Hand(stage, run, "other")
        other.begins(1)
        hand.ends(1, "from the worker", chained=True)
        other.ends(1, "right", chained=False)
        is_out(stage, run, 2)
        other.begins(2)
        other.ends(2, "right", chained=False)
        assert stage.ended(run) == ["succeeded"]
    [inputs] = [task.kwargs for task in tasks(memory) if task.id == hand.ids[1]]
    assert inputs == {"value": "by hand"}
    assert stage.runs.values(run, [0, 1, 2]) == {0: b'"by hand"', 1: b'"right"', 2: b'"right"'}
    idle(stage)


def test_what_is_void_leaves_no_claim_behind(stage: Stage, memory: MemoryTransport) -> None:
    """Somebody told of the head's loss first: the claim of what its worker has begun goes, and the chain with it."""
    with stage.scheduler(memory):
        run = stage.submit(line(3))
        is_out(stage, run)
    hand = Hand(stage, run)
    hand.begins()
    lost = error_record("lost", "WorkerLostError", "so it was said", origin="infrastructure")
    stage.attempts.report([(Report(hand.ids[0], "lost", "w", 1, "none", lost), None)])
    assert hand.goes_on(0, "void").verdict is Verdict.GRANTED
    with stage.scheduler(memory) as scheduler:
        is_out(stage, run, attempt=2)
        assert scheduler.counts["begun for nothing"] == 1
        assert hand.ids[1] not in stage.in_flight()
        assert hand.goes_on(1).verdict is Verdict.STALE
        assert stage.attempts.renew([hand.ids[1]], hand.name) == {hand.ids[1]: False}
        hand.ends(1, "void", chained=True)
        other = Hand(stage, run, "other")
        other.ids[0] = stage.attempt(run, 0, 2)
        other.begins()
        other.ends(0, "right", chained=False)
        is_out(stage, run, 1)
        other.begins(1)
        hand.ends(1, "void", chained=True)
        other.ends(1, "right", chained=False)
        is_out(stage, run, 2)
        other.begins(2)
        other.ends(2, "right", chained=False)
        assert stage.ended(run) == ["succeeded"]
    assert stage.runs.values(run, [0, 1, 2]) == {0: b'"right"', 1: b'"right"', 2: b'"right"'}
    idle(stage)


def test_how_an_attempt_was_begun_has_to_fit(stage: Stage, memory: MemoryTransport) -> None:
    """A report as of a next step counts for nothing where the attempt came by a message, and the other way round."""
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(line(2))
        is_out(stage, run)
        hand = Hand(stage, run)
        hand.begins()
        hand.ends(0, "wrong", chained=True)
        eventually(lambda: scheduler.counts["late"] == 1, "it is late")
        assert hand.goes_on(0, "right").verdict is Verdict.GRANTED
        hand.ends(1, "wrong", chained=False)
        eventually(lambda: scheduler.counts["late"] == 2, "that too")
        hand.ends(1, "right", chained=True)
        assert stage.ended(run) == ["succeeded"]
    assert stage.runs.values(run, [0, 1]) == {0: b'"right"', 1: b'"right"'}
    assert [why for _, word, _, _, why in stage.moves(run) if word == "late"] == [
        "succeeded, attempt 1, from hand",
        "succeeded, attempt 1, from hand",
    ]
    idle(stage)


@pytest.mark.parametrize("begins", ["another node", "another attempt", "a node that is not there"])
def test_a_report_that_goes_on_with_anything_else_leaves_nothing(
    stage: Stage, memory: MemoryTransport, begins: str
) -> None:
    """Not the next node, not its next number: the report counts, what was begun does not, and what is next is sent."""
    with stage.scheduler(memory):
        run = stage.submit(line(3))
        is_out(stage, run)
        hand = Hand(stage, run)
        hand.begins()
        hand.ids[1] = {
            "another node": hand.ids[2],
            "another attempt": stage.attempt(run, 1, 2),
            "a node that is not there": stage.attempt(run, 99),
        }[begins]
        assert hand.goes_on(0).verdict is Verdict.GRANTED
        is_out(stage, run, 1)
        assert list(stage.in_flight()) == [stage.attempt(run, 1)]
        for node in (1, 2):
            right = Hand(stage, run, f"right{node}")
            is_out(stage, run, node)
            right.begins(node)
            right.ends(node, chained=False)
        assert stage.ended(run) == ["succeeded"]
    all_once(stage, run)
    idle(stage)


def test_a_step_that_two_workers_have_begun_counts_for_one_of_them(stage: Stage, memory: MemoryTransport) -> None:
    """The head counts as lost, yet its worker goes on with the step; the next attempt of the head is followed by the
    same id. What comes of it is told by whose head has counted.
    """
    with stage.scheduler(memory):
        run = stage.submit(line(3))
        is_out(stage, run)
    hand = Hand(stage, run)
    hand.begins()
    lost = error_record("lost", "WorkerLostError", "so it was said", origin="infrastructure")
    stage.attempts.report([(Report(hand.ids[0], "lost", "w", 1, "none", lost), None)])
    assert hand.goes_on(0, "void").verdict is Verdict.GRANTED
    with stage.scheduler(memory):
        is_out(stage, run, attempt=2)
        other = Hand(stage, run, "other")
        other.ids[0] = stage.attempt(run, 0, 2)
        other.begins()
        assert other.goes_on(0, "right").verdict is Verdict.GRANTED
        hand.ends(1, "void", chained=True)
        assert other.goes_on(1, "right").verdict is Verdict.GRANTED
        other.ends(2, "right", chained=True)
        stage.ended(run)
    assert stage.runs.values(run, [0, 1, 2]) == {0: b'"right"', 1: b'"right"', 2: b'"right"'}
