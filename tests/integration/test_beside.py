"""A broker that is the store's own Redis: the messages of a small turn go with the commit of their attempts."""

from __future__ import annotations

import pytest

from scheduler.graph import Graph
from scheduler.service import outbox
from scheduler.service.transport import Outgoing, RedisTransport
from scheduler.store.commits import NODES_PER_CALL, Commit, send_commits
from scheduler.wire import RunId
from tests.integration.echo import STANDARD, EchoWorker, Ending, Task, failure, value
from tests.integration.stage import Stage, idle, layers

RUN = RunId("01jd0c0000000000000000000a")


class Counting(RedisTransport):
    """Remembers which attempts were sent by a call of their own."""

    sent: tuple[str, ...] = ()

    def send(self, outgoing: Outgoing) -> None:
        self.sent += tuple(letter.id for _, letter in outgoing)
        super().send(outgoing)


def test_messages_of_a_small_turn_go_with_its_commit(stage: Stage) -> None:
    """Nothing is sent after the commit of a chain, nothing was noted in the outbox, and each node ran once."""
    stage.publish("echo")
    transport = Counting(stage.settings())
    with EchoWorker(stage.url, [STANDARD]) as worker, stage.scheduler(transport) as scheduler:
        run = stage.submit(layers(1, 5))
        assert stage.ended(run) == ["succeeded"]
        assert len(worker.done) == 5
        assert transport.sent == ()
        assert scheduler.counts["published"] == scheduler.counts["messages"] == 5
        assert not stage.client.exists(stage.keys.shard(stage.runs.shard(run)).outbox)
    idle(stage)


def test_wide_turns_and_other_brokers_go_by_the_outbox(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """More attempts than LAID_AT_MOST, or a broker under another address, are sent by a call of their own."""
    stage.publish("echo")
    monkeypatch.setattr(outbox, "LAID_AT_MOST", 3)
    wide = Counting(stage.settings())
    with EchoWorker(stage.url, [STANDARD]), stage.scheduler(wide):
        assert stage.ended(stage.submit(layers(4))) == ["succeeded"]
    assert len(wide.sent) == 4
    settings = stage.settings(broker_url=f"{stage.url}?db=0")
    elsewhere = Counting(settings)
    assert not elsewhere.is_beside
    with EchoWorker(stage.url, [STANDARD]), stage.scheduler(elsewhere):
        assert stage.ended(stage.submit(layers(1, 2))) == ["succeeded"]
    assert len(elsewhere.sent) == 2
    idle(stage)


def test_much_text_goes_by_the_outbox(stage: Stage) -> None:
    """A commit holds up everything else in Redis, so what is long does not go along."""
    stage.publish("echo")
    graph = Graph("long")
    for n in range(3):
        graph.add("echo", key=f"n{n}", text="x" * (outbox.MOST_SHARED_CHARACTERS // 3))
    transport = Counting(stage.settings())
    with EchoWorker(stage.url, [STANDARD]), stage.scheduler(transport):
        assert stage.ended(stage.submit(graph)) == ["succeeded"]
    assert len(transport.sent) == 3
    idle(stage)


def test_what_is_not_in_the_store_yet_goes_into_the_inputs(stage: Stage) -> None:
    """An error and an output that are committed with the message reach the node that reads them."""
    stage.publish("echo")
    graph = Graph("same-turn")
    first = graph.add("echo", key="first", x=1)
    broken = graph.add("echo", key="broken", of=first)
    graph.add("echo", key="rescue", error=broken.error, trigger_rule="one_failed")

    def act(task: Task) -> Ending:
        return failure("permanent") if task.node == "broken" else value(task.kwargs)

    transport = Counting(stage.settings())
    with EchoWorker(stage.url, [STANDARD], act) as worker, stage.scheduler(transport):
        run = stage.submit(graph)
        assert stage.ended(run) == ["succeeded"]
    of, rescue = worker.done[1].kwargs, worker.done[2].kwargs
    assert of == {"of": {"x": 1}}
    assert rescue["error"]["kind"] == "permanent"
    assert transport.sent == ()
    idle(stage)


def test_a_commit_that_is_refused_sends_nothing(stage: Stage) -> None:
    """Who does not own the shard any more gives no worker anything to do."""
    keys = stage.keys.shard(0)
    stage.client.set(keys.epoch, "2")
    commit = Commit(keys, "1")
    commit.outbox([stage.attempt(RUN)], 0)
    commit.push({STANDARD: [b"message"]})
    assert send_commits(stage.client, [commit]) == [0]
    assert not stage.client.exists(STANDARD, keys.outbox)


def test_a_commit_of_several_calls_notes_what_is_to_be_sent(stage: Stage) -> None:
    """A crash between two of its calls must not leave messages without their records, so none goes along."""
    keys = stage.keys.shard(0)
    stage.client.set(keys.epoch, "1")
    for nodes, pushed in ((10, True), (5 * NODES_PER_CALL, False)):
        commit = Commit(keys, "1")
        commit.records(RUN, {node: f"r{node}" for node in range(nodes)})
        commit.outbox([stage.attempt(RUN)], 0)
        commit.push({STANDARD: [b"message"]})
        assert send_commits(stage.client, [commit]) == []
        assert commit.pushed is pushed
        assert stage.client.llen(STANDARD) == 1
        assert stage.client.llen(keys.outbox) == (not pushed)
    stage.client.flushdb()


def test_a_queue_of_another_type_stops_the_whole_commit(stage: Stage) -> None:
    """Everything is checked before the first write: a key that is no list leaves the records unwritten."""
    keys = stage.keys.shard(0)
    stage.client.set(keys.epoch, "1")
    stage.client.set(STANDARD, "no list")
    commit = Commit(keys, "1")
    commit.records(RUN, {0: "r0"})
    commit.push({STANDARD: [b"message"]})
    with pytest.raises(Exception, match="expected a list"):
        send_commits(stage.client, [commit])
    assert not stage.client.exists(keys.nodes(RUN, 0), keys.commits)
    stage.client.flushdb()
