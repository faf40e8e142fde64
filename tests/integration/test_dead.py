"""Dead letters: everything that nobody could use is kept with its cause, can be put back, and blocks nothing."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest
from kombu.connection import Connection

from scheduler.core import decide
from scheduler.errors import DeadLetterNotFound, NotRedriven
from scheduler.graph import Graph
from scheduler.graph.policy import Retry
from scheduler.service import outbox
from scheduler.service.redrive import Redrive
from scheduler.service.transport import MemoryTransport
from scheduler.settings import broker_url_of
from scheduler.store import dead as dead_room
from scheduler.store.commits import Commit, send_commits
from scheduler.store.dead import KEPT_BYTES, Dead, DeadLetter, DeadLetters
from scheduler.store.scripts import FENCE
from scheduler.wire import DeadMessage
from tests.integration.echo import AtOnce, Echo, Ending, Task, echo, loss, tasks, value
from tests.integration.stage import Stage, diamond, dump, eventually, idle, layers
from tests.integration.test_refusals import BROKEN


@pytest.fixture
def letters(stage: Stage) -> DeadLetters:
    """The dead letters of the installation."""
    return DeadLetters(stage.runs)


def put(stage: Stage, *parts: str | bytes, shard: int = 0) -> None:
    """An entry into an inbox, by hand."""
    stage.client.execute_command("XADD", stage.keys.shard(shard).inbox, "*", *parts)


def waiting(letters: DeadLetters, number: int = 1) -> list[DeadLetter]:
    """The letters, as soon as there are so many."""
    return eventually(lambda: found if len(found := letters.newest()) >= number else None)


@pytest.mark.parametrize("entry", BROKEN)
def test_a_record_that_cannot_be_used_is_kept_as_it_was(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters, entry: str
) -> None:
    """With its cause and, byte for byte, what it held; put back it is in the inbox as it was, and its letter gone."""
    parts = [it if isinstance(it, bytes) else it.encode() for it in BROKEN[entry]]
    with stage.scheduler(memory):
        put(stage, *parts)
        [letter] = waiting(letters)
    assert letter.kind == "record"
    assert "record: " in letter.cause
    assert [part for pair in letter.parts for part in pair] == parts
    assert not letter.cut
    assert letters.get(letter.id) == letter
    Redrive(letters, stage.settings())(letter)
    entries = stage.client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, stage.keys.shard(0).inbox)
    assert [fields for _, fields in entries] == [parts]
    assert letters.newest() == []
    assert letters.count() == (0, {"record": 1}, 0)
    with stage.scheduler(memory):  # and it is refused again, as often as somebody likes
        waiting(letters)


def test_a_letter_names_the_attempt_that_its_record_was_about(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters
) -> None:
    """As far as the record still tells."""
    id_ = stage.attempt(stage.new_id(0))
    with stage.scheduler(memory):
        put(stage, "report", f'{{"id": "{id_}", "end": "vanished"}}')
        [letter] = waiting(letters)
    assert letter.facts["attempt"] == id_
    assert letter.facts["run"] == id_.split(".")[1]


def test_what_is_too_large_is_cut_and_says_so(stage: Stage, memory: MemoryTransport, letters: DeadLetters) -> None:
    """It cannot be put back, and stays."""
    with stage.scheduler(memory):
        put(stage, "riddle", b"x" * 300_000)
        [letter] = waiting(letters)
    assert letter.cut
    assert letter.size == 300_000
    assert sum(len(held) for _, held in letter.parts) <= KEPT_BYTES
    with pytest.raises(NotRedriven, match="only a part of its 300,000 bytes"):
        Redrive(letters, stage.settings())(letter)
    assert letters.newest() == [letter]


@pytest.mark.parametrize(
    "record",
    [
        b'{"id": "ID", "end": "succeeded", "output": "inline"}',
        b'{"id": "ID", "end": "failed", "error": {"kind": "' + b"x" * 200_000 + b'"}}',
    ],
    ids=["a deep output", "a huge error"],
)
def test_an_entry_made_to_hurt_hurts_nobody(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters, record: bytes
) -> None:
    """JSON nested a hundred thousand deep, an error of 200 kB: set aside like any other, and the node goes on."""
    worker = Echo(stage.attempts)
    graph = Graph("hurt")
    graph.add("echo", key="b", a=graph.add("echo", key="a"))
    with stage.scheduler(memory) as scheduler:
        run = stage.submit(graph, shard=0)
        [task] = eventually(lambda: tasks(memory))
        parts: list[str | bytes] = ["report", record.replace(b"ID", task.id.encode())]
        if b"inline" in record:
            parts += ["output", b"[" * 100_000 + b"]" * 100_000]
        put(stage, *parts)
        waiting(letters)
        stage.attempts.claim([task.id], "w", "t")
        stage.attempts.report([worker.report(task.id, value(1))])
        eventually(lambda: len(tasks(memory)) == 2)
        worker.take(tasks(memory)[1:])
        assert stage.ended(run) == ["succeeded"]
        assert not scheduler.counts["crashes"]
    idle(stage)


def test_an_entry_that_throws_the_loop_is_put_aside_in_the_end(
    stage: Stage, worker: Echo, at_once: AtOnce, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, planted: after three stumbles over one entry the shard goes on without it."""
    from scheduler.service import intake, requests

    def faulty(kind: str, record: bytes) -> Any:
        raise ZeroDivisionError(kind)

    monkeypatch.setattr(requests, "read", faulty)
    with stage.scheduler(at_once, stumbles=True) as scheduler:
        put(stage, "cancel", '{"run": "x"}')
        [letter] = waiting(letters)
        assert scheduler.counts["crashes"] == intake.STUMBLES
        assert "stumbled 3 times" in letter.cause
        assert letter.parts == [(b"cancel", b'{"run": "x"}')]
        assert stage.ended(stage.submit(diamond(), shard=0)) == ["succeeded"]
    idle(stage)


def test_a_damaged_run_stops_no_other(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Planted: a page of its graph is garbage. It is left alone and counted; its neighbours in the shard run."""
    damaged = stage.submit(diamond(), shard=0)
    keys = stage.keys.shard(0)
    page = stage.client.hget(keys.spec(damaged), "0")
    stage.client.hset(keys.spec(damaged), "0", b"garbage")
    with stage.scheduler(at_once) as scheduler:
        other = stage.submit(diamond(), shard=0)
        eventually(lambda: stage.runs.summary(other).state == "succeeded")
        assert scheduler.counts["unreadable runs"] >= 1
        assert not scheduler.counts["crashes"]
    stage.client.hset(keys.spec(damaged), "0", page)
    with stage.scheduler(at_once):
        assert stage.ended(damaged) == ["succeeded"]


# -- nodes --------------------------------------------------------------------------------------------


def test_a_poisonous_node_is_a_letter_and_can_be_redriven(
    stage: Stage, worker: Echo, at_once: AtOnce, letters: DeadLetters
) -> None:
    """It ends failed after its cap, with the cause of each loss; redriving runs what failed once more."""
    healthy = threading.Event()

    def act(task: Task) -> Ending | None:
        return loss() if task.node == "poison" and not healthy.is_set() else echo(task)

    worker.act = act
    graph = Graph("poisoned")
    poison = graph.add("echo", key="poison", retry=Retry(max_losses=2))
    graph.add("echo", key="after", after=poison)
    graph.add("echo", key="apart")
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        eventually(lambda: stage.runs.summary(run).state == "failed")
        [letter] = waiting(letters)
        assert letter.kind == "node"
        assert {letter.facts[it] for it in ("run", "node", "executor")} == {run, "poison", "echo"}
        error = json.loads(dict(letter.parts)[b"error"])
        assert error["kind"] == "lost"
        assert "3 attempts lost to infrastructure, at most 2 allowed" in error["message"]
        assert f"{error['type']} x3" in error["message"]
        assert stage.states(run) == {"poison": "failed", "after": "upstream_failed", "apart": "succeeded"}
        assert [it.end for it in stage.load(run).tries(0)] == ["lost"] * 3
        healthy.set()
        assert run in Redrive(letters, stage.settings())(letter)
        assert letters.newest() == []
        eventually(lambda: stage.runs.summary(run).state == "succeeded")
        assert len([it for it in worker.nodes() if it == "apart"]) == 1
    idle(stage)


def test_a_node_s_letter_stays_while_its_run_goes_on(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters
) -> None:
    """Only an ended run can be retried; and a run that is gone cannot be at all."""
    graph = Graph("two")
    graph.add("echo", key="poison", retry=Retry(max_losses=0))
    graph.add("echo", key="slow")
    with stage.scheduler(memory):
        run = stage.submit(graph)
        eventually(lambda: len(memory.sent) == 2)
        stage.attempts.claim([stage.attempt(run)], "w", "t")
        stage.lease_ends(stage.attempt(run))
        [letter] = waiting(letters)
        with pytest.raises(NotRedriven, match="is running and can be retried once it has ended"):
            Redrive(letters, stage.settings())(letter)
        stage.runs.cancel(run, "enough")
        stage.ended(run)
    gone = DeadLetter(letter.id, letter.shard, 0, "node", "", {"run": stage.new_id()}, [], 0, cut=False)
    with pytest.raises(NotRedriven, match="not here any more"):
        Redrive(letters, stage.settings())(gone)
    assert letters.newest() == [letter]


def test_a_node_that_no_worker_ever_claims_ends_at_last(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses that are nobody's fault have a cap of their own; it survives a change of owner, and its end says why."""
    monkeypatch.setattr(decide, "MOST_EXCUSED", 20)
    graph = Graph("unclaimed")
    graph.add("echo", key="a")
    run = stage.submit(graph)

    def lost(most: int) -> bool:
        """The broker loses what it has, and time passes; whether that has gone far enough."""
        memory.sent.clear()
        for id_ in stage.in_flight():
            stage.client.zadd(stage.keys.shard(stage.runs.shard(run)).leases, {id_: 1}, xx=True)
        return stage.load(run).attempt[0] >= most or stage.runs.summary(run).state == "failed"

    for most in (8, 10_000):  # two owners, one after the other
        with stage.scheduler(memory):
            eventually(lambda: lost(most))  # noqa: B023  waited for at once
    assert stage.runs.summary(run).state == "failed"
    assert stage.load(run).attempt[0] == 21
    [letter] = waiting(letters)
    error = json.loads(dict(letter.parts)[b"error"])
    assert error["type"] == "NeverClaimed"
    assert "at most 20 allowed: NeverClaimed x21" in error["message"]
    idle(stage)


# -- messages -----------------------------------------------------------------------------------------


def rejected(**changes: Any) -> DeadMessage:
    """A message as a worker tells of it."""
    given: dict[str, Any] = {
        "cause": "no task of this name is registered here: 'nowhere'",
        "queue": "celeriac.test",
        "worker": "w@here",
        "task": "nowhere",
        "id": "8b0b3a4e",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"task": "nowhere", "id": "8b0b3a4e", "lang": "py"},
        "properties": {"correlation_id": "8b0b3a4e"},
        "body": base64.b64encode(b"[[1], {}, null]").decode(),
        "size": 15,
    }
    return DeadMessage(**{**given, **changes})


def test_a_rejected_message_goes_back_onto_its_queue(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters
) -> None:
    """With the body, the headers and the properties that it had, as kombu lays it."""
    with stage.scheduler(memory) as scheduler:
        stage.attempts.report_dead([rejected()])
        [letter] = waiting(letters)
        assert scheduler.counts["rejected"] == 1
    assert letter.kind == "message"
    assert {letter.facts[it] for it in ("queue", "task", "worker")} == {"celeriac.test", "nowhere", "w@here"}
    redrive = Redrive(letters, stage.settings(broker_url=broker_url_of(stage.url)))
    assert redrive(letter) == "queue celeriac.test"
    redrive.close()
    with Connection(broker_url_of(stage.url)) as connection:
        message = connection.SimpleQueue("celeriac.test").get(timeout=5)
        assert message.body in (b"[[1], {}, null]", "[[1], {}, null]")
        assert message.headers["task"] == "nowhere"
        assert message.content_type == "application/json"
        assert message.properties["correlation_id"] == "8b0b3a4e"
        message.ack()
    assert letters.newest() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"cut": True}, "only a part"), ({"form": "raw"}, "no broker client made"), ({"queue": ""}, "queue is not known")],
)
def test_what_cannot_be_a_message_again_stays(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters, changes: dict[str, Any], why: str
) -> None:
    """And nothing is published."""
    with stage.scheduler(memory):
        stage.attempts.report_dead([rejected(**changes)])
        [letter] = waiting(letters)
    with pytest.raises(NotRedriven, match=why):
        Redrive(letters, stage.settings())(letter)
    assert letters.newest() == [letter]


def test_a_message_of_an_attempt_lies_in_the_attempt_s_shard(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters
) -> None:
    """One without lies in its queue's, always the same one; a shard that is not there is no harm."""
    run = stage.new_id(3)
    with stage.scheduler(memory):
        stage.attempts.report_dead([rejected(id=stage.attempt(run)), rejected(id="999" + stage.attempt(run)[1:])])
        stage.attempts.report_dead([rejected(), rejected(), rejected()])
        found = waiting(letters, 5)
    assert [it.shard for it in found if it.facts["id"] == stage.attempt(run)] == [3]
    assert len({it.shard for it in found if it.facts["id"] == "8b0b3a4e"}) == 1


# -- how many -----------------------------------------------------------------------------------------


def test_what_is_pushed_out_is_counted(stage_each: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard keeps so many, and fewer when they are large; what somebody took away does not count as pushed out."""
    stage, letters = stage_each, DeadLetters(stage_each.runs)
    keys = stage.keys.shard(0)
    stage.client.hset(stage.keys.owners, 0, "1|0|")
    FENCE(stage.client, [keys.epoch], [1])
    from scheduler.store import commits

    monkeypatch.setattr(commits, "MOST_DEAD", 300)
    monkeypatch.setattr(commits, "MOST_LARGE_DEAD", 20)

    def write(number: int, size: int) -> None:
        commit = Commit(keys, 1)
        commit.dead([Dead.made("record", f"no {at}", {}, [(b"x", b"y" * size)]) for at in range(number)])
        assert send_commits(stage.client, [commit]) == []

    write(50, 10)
    assert letters.count() == (50, {"record": 50}, 0)
    assert letters.take(letters.newest()[0])
    write(800, 10)
    count = letters.count()
    assert 300 <= count.here <= 500
    assert count.pushed_out == 849 - count.here
    write(60, 10_000)
    count = letters.count()
    assert count.here <= 150
    assert count.pushed_out == 909 - count.here
    assert [it.cause for it in letters.newest(limit=1)] == ["no 59"]
    assert len(list(letters.every())) == count.here
    stage.client.flushall()


def test_a_letter_that_is_gone_is_not_found(stage: Stage, memory: MemoryTransport, letters: DeadLetters) -> None:
    """Neither one that was taken, nor one of another form, nor one of a shard that is not there."""
    with stage.scheduler(memory):
        put(stage, "riddle", "?")
        [letter] = waiting(letters)
    assert letters.take(letter)
    before = dump(stage.client)
    assert not letters.take(letter)
    assert not letters.back_into_inbox(letter)
    assert dump(stage.client) == before
    for id_ in (letter.id, "nonsense", "9999-1-0", "", "0-1"):
        with pytest.raises(DeadLetterNotFound):
            letters.get(id_)


def test_letters_are_listed_newest_first_and_by_kind(
    stage: Stage, memory: MemoryTransport, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all shards, page by page."""
    monkeypatch.setattr(dead_room, "READ_AT_ONCE", 2)
    with stage.scheduler(memory):
        for number in range(7):
            put(stage, "riddle", str(number), shard=number % 3)
            last = waiting(letters, number + 1)[0]
            eventually(lambda: _now_ms(stage) > last.at_ms)  # noqa: B023  waited for at once
        stage.attempts.report_dead([rejected()])
        waiting(letters, 8)
    found = letters.newest("record")
    assert [it.parts[0][1] for it in found] == [str(it).encode() for it in reversed(range(7))]
    assert [it.kind for it in letters.newest(limit=1)] == ["message"]
    assert len(list(letters.every("message"))) == 1
    assert len(list(letters.every())) == 8


def _now_ms(stage: Stage) -> int:
    seconds, micros = stage.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def test_letters_of_one_millisecond_have_an_order_too(stage: Stage, letters: DeadLetters) -> None:
    """Of a shard the later is the newer, and shards come one after the other; a limit cuts that same list."""
    for shard, entry in ((0, "5-9"), (0, "5-10"), (2, "5-9"), (1, "4-30"), (1, "5-9"), (2, "6-0")):
        fields = Dead.made("record", entry, {}, []).fields()
        stage.client.execute_command("XADD", stage.keys.shard(shard).dead, entry, *fields)
    order = ["2-6-0", "0-5-10", "2-5-9", "1-5-9", "0-5-9", "1-4-30"]
    for limit in range(1, 7):
        assert [it.id for it in letters.newest(limit=limit)] == order[:limit]


def test_a_log_is_bounded_however_often_its_run_is_tried(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """A run in a loop of retries keeps its newest history; waiting for it and reading its records work on."""
    from scheduler.store import commits

    graph = layers(1)
    worker.act = lambda task: loss()
    with pytest.MonkeyPatch.context() as patch, stage.scheduler(at_once):
        patch.setattr(commits, "LOG_ENTRIES", 100)
        run = stage.submit(graph)
        eventually(lambda: stage.runs.summary(run).state == "failed")
        for _ in range(60):
            before = stage.load(run).epoch[0]
            stage.runs.retry(run, "again")
            eventually(
                lambda: stage.load(run).epoch[0] > before and stage.runs.summary(run).state == "failed"  # noqa: B023  waited for at once
            )
    assert stage.client.xlen(stage.keys.shard(stage.runs.shard(run)).log(run)) <= 100 + 10 + 100
    loaded = stage.load(run)
    assert loaded.attempt[0] == 61 * 6
    assert len(list(loaded.tries(0))) == 200
    assert [it.attempt for it in loaded.tries(0)][-1] == 61 * 6


def test_inputs_too_large_for_a_message_fail_their_node(
    stage: Stage, worker: Echo, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many outputs that are small each may be too much together: the node fails with both sizes, nothing is sent."""
    monkeypatch.setattr(outbox, "MOST_INPUT_CHARACTERS", 10_000)
    graph = Graph("wide")
    many = [graph.add("echo", text="x" * 1_000) for _ in range(12)]
    graph.add("echo", key="gather", parts=many)
    graph.add("echo", key="few", parts=many[:5])
    with stage.scheduler(at_once):
        run = stage.submit(graph)
        assert stage.ended(run) == ["failed"]
    assert stage.states(run)["few"] == "succeeded"
    assert "gather" not in worker.nodes()
    node = stage.load(run).keys.index("gather")
    error = json.loads(stage.runs.values(run, [node])[node])
    assert (error["kind"], error["type"]) == ("invalid_input", "InputTooLarge")
    assert "at most 10,000" in error["message"]
    idle(stage)
