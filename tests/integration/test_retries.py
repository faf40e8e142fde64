"""Attempts that fail, are lost, fall silent, or whose message nobody claims: another try, under the right count."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import ClassVar

import pytest

from scheduler.graph import Graph, Retry, Timing
from scheduler.service import admission
from scheduler.service.transport import MemoryTransport, Outgoing
from scheduler.store.dead import DeadLetters
from tests.integration.echo import STANDARD, AtOnce, Echo, EchoWorker, Ending, echo, failure, loss, tasks, value
from tests.integration.stage import Stage, diamond, eventually, idle, layers

QUICK = Retry(max_attempts=3, base_seconds=0.02, cap_seconds=0.04)


def test_a_failed_attempt_is_tried_again_when_its_wait_is_over(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """The wait is a timer in Redis, the next attempt has the next number, and the timeline tells it all."""
    worker.act = lambda task: failure(retry_after_ms=120) if task.attempt == 1 else echo(task)
    graph = Graph("retry")
    graph.add("echo", key="a")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    first, second = stage.load(run).tries(0)
    assert (first.end, second.end) == ("failed", "succeeded")
    assert second.ready_at_ms - first.ended_at_ms >= 120
    assert stage.words(run, 0) == ["ready", "dispatch", "retry", "wake", "dispatch", "succeed"]
    assert [task.attempt for task in worker.done] == [1, 2]
    assert len({task.headers["celeriac"]["key"] for task in worker.done}) == 1
    idle(stage)


def test_many_waits_that_end_together_all_end(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """More timers than one look takes up are taken up all the same, at once, also when nothing else happens."""
    worker.act = lambda task: failure(retry_after_ms=1) if task.attempt == 1 else Ending(kind="none")
    with stage.scheduler(at_once, standard_low={"window": 5_000}) as scheduler:
        runs = [stage.submit(layers(700), shard=0) for _ in range(2)]
        assert stage.ended(*runs, seconds=60) == ["succeeded"] * 2
        assert scheduler.counts["published"] == 2 * 1_400
    idle(stage)


def test_a_node_out_of_attempts_fails_and_what_follows_does_not_start(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """The reason is in the log; other branches go on."""
    worker.act = lambda task: failure() if task.node == "bad" else echo(task)
    graph = Graph("limits", retry=QUICK)
    bad = graph.add("echo", key="bad")
    graph.add("echo", key="after", after=bad)
    graph.add("echo", key="other")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"bad": "failed", "after": "upstream_failed", "other": "succeeded"}
    assert sum(task.node == "bad" for task in worker.done) == 3
    [line] = [move for move in stage.moves(run) if move[1] == "upstream_fail"]
    assert line[3:] == [0, "all_success 0,1,0,0 of 1"]
    idle(stage)


def test_a_lost_attempt_is_sent_again_at_once_and_has_a_cap_of_its_own(
    stage: Stage, worker: Echo, at_once: AtOnce
) -> None:
    """Infrastructure does not use up retries; poison ends as lost."""
    worker.act = lambda task: loss() if task.node == "poison" or task.attempt < 3 else echo(task)
    graph = Graph("losses", retry=Retry(max_attempts=1, max_losses=2))
    graph.add("echo", key="unlucky")
    graph.add("echo", key="poison")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run) == {"unlucky": "succeeded", "poison": "failed"}
    assert json.loads(stage.runs.values(run, [1])[1])["kind"] == "lost"
    assert Counter(worker.nodes()) == {"unlucky": 3, "poison": 3}
    idle(stage)


def test_an_attempt_without_heartbeat_is_missed_after_its_lease(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A worker that claimed and fell silent is replaced; what it reports afterwards changes nothing."""
    worker.act = lambda task: None if task.attempt == 1 else echo(task)
    graph = Graph("silent")
    graph.add("echo", key="a")
    with stage.scheduler(at_once, standard_low={"lease_seconds": 0.2}) as scheduler:
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
        stage.attempts.report([worker.report(stage.attempt(run, 0, 1), value("late"))])
        eventually(lambda: scheduler.counts["late"] == 1 and stage.quiet())
    first, second = stage.load(run).tries(0)
    assert (first.end, second.end) == ("lost", "succeeded")
    assert first.ended_at_ms - first.claimed_at_ms >= 200
    assert json.loads(stage.runs.values(run, [0])[0]) == {}
    idle(stage)


def test_a_heartbeat_keeps_an_attempt(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """As long as its worker renews, an attempt is not lost, however short its lease."""
    worker.act = lambda task: None
    graph = Graph("slow")
    graph.add("echo", key="a")
    with stage.scheduler(at_once, standard_low={"lease_seconds": 0.2}) as scheduler:
        run = stage.submit(graph)
        [id_] = eventually(lambda: [task.id for task in worker.done])
        until = time.monotonic() + 0.8

        def beat() -> bool:
            assert stage.attempts.renew([id_], worker.name) == {id_: True}
            return time.monotonic() > until

        eventually(beat)
        stage.attempts.report([worker.report(id_, value(1))])
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["leases ended"] == 0
    idle(stage)


def test_an_attempt_past_its_hard_limit_is_a_timeout(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No heartbeat prolongs it past that; it counts as a failure of the executor, not as a loss."""
    monkeypatch.setattr(admission, "LIMIT_GRACE_MS", 50)
    worker.act = lambda task: None
    graph = Graph("hard", retry=1)
    graph.add("echo", key="a", timeout=0.2)
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    error = json.loads(stage.runs.values(run, [0])[0])
    assert (error["kind"], error["type"]) == ("timeout", "TimeLimitExceeded")
    idle(stage)


def test_an_executor_that_says_nothing_for_too_long_is_a_timeout(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Its worker renews all the while, and so cannot hide it; the next try, which says enough, goes on far beyond."""
    worker.act = lambda task: None
    graph = Graph("quiet", retry=Retry(max_attempts=2, base_seconds=0.02, cap_seconds=0.02))
    graph.add("echo", key="a", timing=Timing(silence=0.4))
    with stage.scheduler(at_once) as scheduler:
        run = stage.submit(graph)
        [first] = eventually(lambda: [task.id for task in worker.done])
        eventually(lambda: not stage.attempts.renew([first], worker.name)[first] or len(worker.done) == 2)
        second = eventually(lambda: worker.done[1:])[0]
        silence = tuple(second.headers["celeriac"]["silence"])
        token = stage.in_flight()[second.id].split("|")[6]
        until = time.monotonic() + 1.5

        def beat() -> bool:
            assert stage.attempts.beat(second.id, token, silence)
            return time.monotonic() > until

        eventually(beat)
        stage.attempts.report([worker.report(second.id, value(1))])
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["leases ended"] == 1
    assert [it.end for it in stage.load(run).tries(0)] == ["failed", "succeeded"]
    [retried] = [move[4] for move in stage.moves(run) if move[1] == "retry"]
    assert "timeout" in retried
    idle(stage)


def test_a_message_that_vanished_is_sent_again(stage: Stage) -> None:
    """The broker lost it: nothing there, nothing claimed; after the deadline a new attempt goes out."""
    stage.publish("echo")
    graph = Graph("vanished")
    graph.add("echo", key="a")
    with stage.scheduler():
        run = stage.submit(graph)
        eventually(lambda: stage.client.llen(STANDARD))
        stage.client.delete(STANDARD)
        stage.lease_ends(stage.attempt(run, 0, 1))
        with EchoWorker(stage.url, [STANDARD]) as worker:
            assert stage.ended(run) == ["succeeded"]
    assert [task.attempt for task in worker.done] == [2]
    loaded = stage.load(run)
    assert (loaded.failures[0], loaded.losses[0]) == (0, 0)  # it never ran, so nobody is to blame
    idle(stage)


@pytest.mark.parametrize("executor", ["echo", 'e"ch\\o%s{0}%(id)s@@id@@ ', '"id": "1.2.3"'])
def test_a_message_that_only_waits_is_left_waiting(stage: Stage, executor: str) -> None:
    """No worker has time yet: its deadline moves on, nothing is sent twice. Whatever the executor is called."""
    stage.publish(executor)
    graph = Graph("waits")
    graph.add(executor, key="a")
    with stage.scheduler() as scheduler:
        run = stage.submit(graph)
        eventually(lambda: stage.client.llen(STANDARD))
        id_ = stage.attempt(run)
        leases = stage.keys.shard(stage.runs.shard(run)).leases
        stage.lease_ends(id_)
        eventually(lambda: (stage.client.zscore(leases, id_) or 0) > stage.runs.now_ms() + 1_000)
        assert scheduler.counts["leases ended"] == 0
        with EchoWorker(stage.url, [STANDARD]) as worker:
            assert stage.ended(run) == ["succeeded"]
    assert [(task.attempt, task.executor) for task in worker.done] == [(1, executor)]
    idle(stage)


def test_one_look_at_a_queue_serves_all_that_wait_in_it(stage: Stage, memory: MemoryTransport) -> None:
    """Hundreds of unclaimed attempts cost one reading of their queue, and a broker that is away costs one try."""
    asked: list[str] = []

    class Away(MemoryTransport):
        def waiting(self, queue: str) -> frozenset[str] | None:
            asked.append(queue)
            raise ConnectionError("away")

    with stage.scheduler(Away(), standard_low={"prefetch": 100}) as scheduler:
        run = stage.submit(layers(200), shard=0)
        eventually(lambda: len(stage.in_flight()) == 200)
        ids = list(stage.in_flight())
        asked.clear()
        stage.client.zadd(stage.keys.shard(0).leases, dict.fromkeys(ids, 1))
        eventually(lambda: stage.client.zcount(stage.keys.shard(0).leases, 0, 1) == 0)
        assert len(asked) == 1
        assert scheduler.counts["leases ended"] == 0
        stage.runs.cancel(run, "over")
        assert stage.ended(run) == ["cancelled"]
    idle(stage)


def test_a_broker_that_is_away_gets_everything_later(stage: Stage, worker: Echo) -> None:
    """What it did not take stays in the outbox and is sent again; nothing is lost, nothing is done twice."""

    class Flaky(AtOnce):
        tries = 0

        def send(self, outgoing: Outgoing) -> None:
            Flaky.tries += 1
            if Flaky.tries % 3 != 0:
                raise ConnectionError("away")
            super().send(outgoing)

    with stage.scheduler(Flaky(worker)) as scheduler:
        run = stage.submit(diamond())
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["unpublished"] == 6
    assert sorted(worker.nodes()) == ["a", "b", "c", "d"]
    idle(stage)


def test_a_broker_that_stays_away_is_asked_less_and_less(
    stage: Stage, worker: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    """No busy loop and no flood in the log: the pauses double, and the trouble is told once."""

    class Away(AtOnce):
        tries: ClassVar[list[float]] = []
        back = False

        def send(self, outgoing: Outgoing) -> None:
            self.tries.append(time.monotonic())
            if not self.back:
                raise ConnectionError("away")
            super().send(outgoing)

    transport = Away(worker)
    with stage.scheduler(transport):
        run = stage.submit(diamond())
        eventually(lambda: len(transport.tries) >= 4)
        transport.back = True
        assert stage.ended(run) == ["succeeded"]
    first, second, third, fourth = transport.tries[:4]
    assert second - first >= 0.1
    assert third - second >= 0.2
    assert fourth - third >= 0.4
    said = [it.message for it in caplog.records if "the broker" in it.message]
    assert [it.split(" (")[0] for it in said] == ["the broker took no messages", "the broker takes messages again"]
    idle(stage)


def test_a_new_owner_sends_again_what_nobody_has_claimed(stage: Stage, worker: Echo) -> None:
    """It cannot know what reached the broker: the outbox goes out once more, less what a worker has claimed."""

    class Unheard(MemoryTransport):
        def send(self, outgoing: Outgoing) -> None:
            super().send(outgoing)
            raise ConnectionError("the answer was lost")

    unheard, again = Unheard(), MemoryTransport()
    with stage.scheduler(unheard):
        run = stage.submit(layers(3))
        eventually(lambda: unheard.sent)
    first, second, third = tasks(unheard)[:3]
    [claim] = stage.attempts.claim([second.id], worker.name, "t")
    with stage.scheduler(again):
        eventually(lambda: len(again.sent) == 2)
        assert [task.id for task in tasks(again)] == [first.id, third.id]
        worker.take([first, *tasks(again)])  # one of them by both of its messages
        stage.attempts.report([worker.report(second.id, value(1), claim.now_ms)])
        assert stage.ended(run) == ["succeeded"]
    assert [task.id for task in worker.refused] == [first.id]
    assert [task.id for task in worker.done] == [first.id, third.id]
    idle(stage)


class ClaimedMeanwhile(MemoryTransport):
    """A worker takes the message and claims it, just as the scheduler looks whether it still waits."""

    def __init__(self, worker: Echo) -> None:
        super().__init__()
        self.worker = worker

    def waiting(self, queue: str) -> frozenset[str] | None:
        """Not any more."""
        if not self.worker.done:
            self.worker.take(tasks(self))
        return frozenset()


def test_a_claim_that_comes_as_an_attempt_is_given_up_counts(stage: Stage, worker: Echo) -> None:
    """The scheduler found it overdue and unclaimed; before it could say so a worker began. Nothing runs twice."""
    transport = ClaimedMeanwhile(worker)
    graph = Graph("overtaken")
    graph.add("echo", key="a")
    with stage.scheduler(transport) as scheduler:
        run = stage.submit(graph)
        eventually(lambda: len(transport.sent) == 1)
        stage.lease_ends(stage.attempt(run))
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["overtaken"] == 1
    assert [task.attempt for task in worker.done] == [1]
    assert len(transport.sent) == 1
    idle(stage)


@pytest.mark.parametrize("how", ["told", "silent"])
def test_a_lost_attempt_of_an_unsafe_executor_is_not_repeated(
    stage: Stage, worker: Echo, memory: MemoryTransport, how: str
) -> None:
    """Its worker was killed, or fell silent, after it had begun: the node fails, says why, and stands as a dead letter.

    A message that nobody has claimed is sent again all the same.
    """
    stage.publish("pay", purity="unsafe")
    worker.act = lambda _: loss() if how == "told" else None
    graph = Graph("unsafe")
    graph.add("pay", key="n")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(tasks(memory)) == 1, "the first attempt")
        memory.sent.clear()
        stage.lease_ends(stage.attempt(run))
        eventually(lambda: len(tasks(memory)) == 1, "the second, for nobody had claimed the first")
        worker.take(tasks(memory))
        if how == "silent":
            stage.lease_ends(stage.attempt(run, attempt=2))
        assert stage.ended(run) == ["failed"]
    assert [task.attempt for task in worker.done] == [2]
    why = next(move[4] for move in stage.moves(run) if move[:2] == [0, "fail"])
    assert why == "lost: its executor is unsafe, so an attempt that may have begun is not repeated"
    [letter] = DeadLetters(stage.runs).newest()
    assert letter.cause == why
    idle(stage)
