"""Redis loses what it had acknowledged, as a failover, a restored backup or a missing append-only file does.

The loss is made by setting the whole store back to an earlier copy of it, while schedulers live and attempts run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.client import Client
from scheduler.embedded import EmbeddedRedis
from scheduler.errors import RunLost, RunNotFound
from scheduler.graph import Graph
from scheduler.service.transport import MemoryTransport
from scheduler.store.commits import Commit, send_commits
from scheduler.store.owners import Owners
from scheduler.wire import Report
from tests.integration.copies import Copy
from tests.integration.echo import AtOnce, Echo, Task, tasks
from tests.integration.invariants import check
from tests.integration.stage import Stage, diamond, eventually, idle, layers

SHARD = 1


def silent(_task: Task) -> None:
    """Runs on and on."""


def graph(*, key: str = "node", **options: Any) -> Graph:
    """One node that never ends, and one after it."""
    it = Graph("rewound", **options)
    it.add("echo", key="end", after=it.add("echo", key=key, timeout=600))
    return it


@pytest.fixture
def stage(redis_url: str, soon: None) -> Stage:
    """An installation whose schedulers look at it often."""
    return Stage(redis_url, shards=2)


def test_a_commit_after_lost_commits_is_refused(stage: Stage) -> None:
    """The owner says how many commits there were; where fewer are, nothing is written, and the answer says why."""
    owners = Owners(stage.client, stage.namespace, "a", 60_000)
    [token] = owners.take([SHARD]).values()
    keys = stage.keys.shard(SHARD)

    def commit(count: int) -> Commit:
        made = Commit(keys, token, count)
        made.timers({}, ["nothing"])
        return made

    assert send_commits(stage.client, [commit(0)]) == []
    copy = Copy(stage)
    assert send_commits(stage.client, [commit(1), commit(2)]) == []
    copy.set_back()
    late = commit(3)
    before = stage.client.get(keys.commits)
    assert send_commits(stage.client, [late]) == [SHARD]
    assert late.rewound
    assert stage.client.get(keys.commits) == before == b"1"
    repeated = commit(0)
    assert send_commits(stage.client, [repeated]) == [SHARD]
    assert not repeated.rewound, "an older count is no loss"


def test_a_shard_that_went_back_is_noticed_said_and_goes_on(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Count, log line, a line in the run's own log; the run is completed from where the store stands."""
    stage.publish("echo")
    worker = Echo(stage.attempts)
    memory = MemoryTransport()
    run = stage.submit(layers(3, 3), shard=SHARD)
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 3)
        copy = Copy(stage)
        worker.take(tasks(memory))
        eventually(lambda: len(memory.sent) == 6)
        copy.set_back()
        eventually(lambda: scheduler.counts["rewound"])

        done: set[str] = set()

        def work() -> bool:
            new = [task for task in tasks(memory) if task.id not in done]
            done.update(task.id for task in new)
            worker.take(new)
            return stage.runs.summary(run).state == "succeeded"

        eventually(work)
    assert "went back in time: Redis has lost" in caplog.text
    said = [why for node, word, *_, why in stage.moves(run) if (node, word) == (-1, "rewound")]
    assert len(said) == 1
    assert "commits of shard 1 are missing" in said[0]
    [number] = [int(it) for it in [stage.client.hget(stage.keys.shard(SHARD).rewound, "times")]]
    assert number == 1
    idle(stage)


def test_a_number_that_may_be_running_is_never_given_out_again(stage: Stage) -> None:
    """What the lost commits sent may run still: the same node gets a higher number, and the former's report is late."""
    stage.publish("echo")
    worker = Echo(stage.attempts, silent)
    memory = MemoryTransport()
    run = stage.submit(graph(), shard=SHARD)
    copy = Copy(stage)
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 1)
        [first] = tasks(memory)
        worker.take([first])
        copy.set_back(broker=False)
        eventually(lambda: scheduler.counts["rewound"])
        eventually(lambda: len(memory.sent) == 2)
        second = tasks(memory)[1]
        assert second.node == first.node
        assert second.attempt > first.attempt
        assert second.id != first.id
        assert stage.attempts.renew([first.id], "echo") == {first.id: False}
        worker.take([first])
        assert worker.refused == [first], "its message, delivered again, is dropped"
        late = scheduler.counts["late"]
        stage.attempts.report([(Report(first.id, "succeeded", "echo", None, "none"), None)])
        eventually(lambda: scheduler.counts["late"] == late + 1)
        assert stage.states(run)["node"] == "dispatched"
        worker.act = lambda task: Echo(stage.attempts).act(task)
        worker.take([second])
        eventually(lambda: len(memory.sent) == 3)
        worker.take(tasks(memory)[2:])
        assert stage.ended(run) == ["succeeded"]
    numbers = [one.attempt for one in stage.load(run).tries(0)]
    assert numbers == [second.attempt]
    idle(stage)


def test_an_attempt_that_was_sent_before_the_loss_and_perhaps_claimed_in_it_is_sent_as_a_new_one(stage: Stage) -> None:
    """Its claim is lost, so it may run; a message of it that comes again is refused. It costs the node no failure."""
    stage.publish("echo")
    worker = Echo(stage.attempts, silent)
    memory = MemoryTransport()
    run = stage.submit(graph(), shard=SHARD)
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 1)
        copy = Copy(stage)
        [first] = tasks(memory)
        worker.take([first])  # claimed, in what will be lost
        stage.runs.cancel(stage.new_id(SHARD), "a commit that is lost")
        eventually(lambda: stage.client.get(stage.keys.shard(SHARD).commits) != copy.kept[b"{cel:1}:commits"])
        eventually(lambda: not stage.client.xlen(stage.keys.shard(SHARD).inbox))
        copy.set_back()
        eventually(lambda: scheduler.counts["rewound"])
        eventually(lambda: len(memory.sent) == 2)
        worker.take([first])
        assert worker.refused == [first]
        loaded = stage.load(run)
        assert (loaded.failures[0], loaded.losses[0]) == (0, 0)
        assert "lose" in stage.words(run, 0)
    check(stage.client)


def test_an_attempt_that_was_claimed_before_the_loss_runs_on(stage: Stage) -> None:
    """The store knows who holds it: it is not repeated, and its report counts."""
    stage.publish("echo")
    worker = Echo(stage.attempts, silent)
    memory = MemoryTransport()
    run = stage.submit(graph(), shard=SHARD)
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 1)
        [first] = tasks(memory)
        worker.take([first])
        copy = Copy(stage)
        stage.runs.cancel(stage.new_id(SHARD), "a commit that is lost")
        eventually(lambda: not stage.client.xlen(stage.keys.shard(SHARD).inbox))
        copy.set_back()
        eventually(lambda: scheduler.counts["rewound"])
        assert stage.attempts.renew([first.id], "echo") == {first.id: True}
        stage.attempts.report([(Report(first.id, "succeeded", "echo", None, "none"), None)])
        eventually(lambda: len(memory.sent) == 2)
        assert [task.node for task in tasks(memory)] == ["node", "end"]
    assert stage.states(run)["node"] == "succeeded"
    check(stage.client)


def test_a_run_submitted_again_under_its_key_repeats_no_number(stage: Stage) -> None:
    """Its id follows from the key; attempts of its lost first submission may run."""
    stage.publish("echo")
    memory = MemoryTransport()
    run = stage.new_id(SHARD)
    copy = Copy(stage)
    compiled = graph().compile()
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: stage.client.exists(stage.keys.shard(SHARD).epoch))
        stage.runs.submit(run, compiled, {"key": "daily"})
        eventually(lambda: len(memory.sent) == 1)
        copy.set_back()
        eventually(lambda: scheduler.counts["rewound"])
        stage.publish("echo")
        stage.runs.submit(run, compiled, {"key": "daily"})
        fresh = stage.submit(graph(), shard=SHARD)
        eventually(lambda: len(memory.sent) == 3)
    numbers = {task.id.split(".")[1]: task.attempt for task in tasks(memory)[1:]}
    assert numbers[run] > 1
    assert numbers[fresh] == 1, "an id that was never here before needs no gap"
    check(stage.client)


def test_whoever_takes_a_shard_over_learns_of_the_loss_from_the_one_who_knows(stage: Stage) -> None:
    """The owner that was promised the lost commits owns the shard no more: it tells, the new owner heals."""
    stage.publish("echo")
    memory = MemoryTransport()
    run = stage.submit(graph(), shard=SHARD)
    keys = stage.keys.shard(SHARD)
    former = Owners(stage.client, stage.namespace, "former", 1)
    copy = Copy(stage)
    stage.client.set(keys.commits, 50)
    assert former.behind(stage.shards) == []
    copy.set_back()
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 1)
        assert "rewound" not in scheduler.counts, "how should it know"
        assert former.behind(stage.shards) == [SHARD]
        former.tell(SHARD)
        eventually(lambda: scheduler.counts["rewound"])
        eventually(lambda: len(memory.sent) == 2)
        assert int(stage.client.get(keys.commits)) > 50
        assert former.behind(stage.shards) == []
        eventually(lambda: not stage.client.xlen(keys.inbox))
        assert scheduler.counts["rewound"] == 1
    assert tasks(memory)[1].attempt > tasks(memory)[0].attempt
    assert stage.words(run, 0).count("lose") == 1


def test_one_loss_is_said_once_by_whoever_heals_it(stage: Stage) -> None:
    """A scheduler that knew of fewer of the lost commits heals the shard: who knew of more finds no second loss."""
    stage.publish("echo")
    worker, memory = Echo(stage.attempts), MemoryTransport()
    former = Owners(stage.client, stage.namespace, "former", 1)
    run = stage.submit(graph(), shard=SHARD)
    copy = Copy(stage)
    with stage.scheduler(memory) as scheduler:
        eventually(lambda: len(memory.sent) == 1)
        assert former.behind(stage.shards) == []
        former.known[SHARD] += 500  # it was promised these, and the other had not looked since
        copy.set_back()
        eventually(lambda: scheduler.counts["rewound"])
        assert former.behind(stage.shards) == [], "the loss that it knows of is healed"
        eventually(lambda: len(memory.sent) == 2)

        copy.set_back()  # a second loss, back to before the first, is one of few commits again
        eventually(lambda: scheduler.counts["rewound"] == 2)
        eventually(lambda: len(memory.sent) == 3)
        worker.take(tasks(memory)[2:])
        eventually(lambda: len(memory.sent) == 4)
        worker.take(tasks(memory)[3:])
        assert stage.ended(run) == ["succeeded"]
    times, missing = stage.client.hmget(stage.keys.shard(SHARD).rewound, "times", "missing")
    assert int(times) == 1, "what the second loss took is gone from here too"
    assert int(missing) < 100
    idle(stage)


def test_a_loss_that_only_the_next_owner_meets_is_noticed_too(stage: Stage) -> None:
    """Every scheduler remembers how far every shard was when it last looked."""
    stage.publish("echo")
    memory = MemoryTransport()
    stage.submit(graph(), shard=SHARD)
    copy = Copy(stage)
    with stage.scheduler(memory, shard_lease_seconds=1.0) as second:
        eventually(lambda: len(memory.sent) == 1)
        known = second._owned.owners.known
        eventually(lambda: known.get(SHARD))
        second._owned.shards.owned.clear()  # it stands by, as far as it knows
        copy.set_back()
        stage.owners_vanish()
        eventually(lambda: second.counts["rewound"])


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis without an append-only file, which a test may restart."""
    with EmbeddedRedis(tmp_path) as server:
        Stage(server.url).client.config_set("appendonly", "no")
        yield server


def restart_empty(server: EmbeddedRedis, directory: Path) -> None:
    """Kill -9, and a start without any data."""
    server.stop()
    for path in (*directory.glob("appendonly*"), *directory.glob("appendonlydir/*"), *directory.glob("*.rdb")):
        if path.is_file():
            path.unlink()
    server.start()


def test_a_store_that_comes_back_empty_is_said_aloud_and_used(
    forgetful: EmbeddedRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting clients get an error within seconds and not silence; new runs work."""
    stage = Stage(forgetful.url)
    stage.publish("echo")
    errors: list[RunLost] = []
    client = Client(forgetful.url)
    with stage.scheduler(MemoryTransport()) as scheduler:
        eventually(lambda: stage.client.exists(stage.keys.shard(0).epoch))
        handle = client.submit(diamond(), check=False)
        eventually(lambda: stage.in_flight())

        def wait(what: Any) -> None:
            try:
                what()
            except RunLost as error:
                errors.append(error)

        events, ends = handle.events(), handle.as_completed()
        waits = (handle.wait, lambda: list(events), lambda: handle.get("d"), lambda: list(ends))
        threads = [threading.Thread(target=wait, args=(it,), daemon=True) for it in waits]
        for thread in threads:
            thread.start()
        eventually(lambda: stage.client.info("clients")["blocked_clients"] >= 5)
        restart_empty(forgetful, tmp_path)
        for thread in threads:
            thread.join(15)
        assert len(errors) == 4
        assert all(isinstance(error, RunNotFound) for error in errors)
        eventually(lambda: scheduler.counts["emptied"])
        eventually(lambda: scheduler.counts["rewound"])
        stage.publish("echo")
        again = client.submit(diamond("again"), check=False)
        eventually(lambda: stage.in_flight())
        again.cancel()
        assert again.wait(20) == "cancelled"
    assert "came back empty" in caplog.text
    client.close()


def test_a_store_that_is_emptied_under_living_connections_is_noticed(stage: Stage) -> None:
    """Nobody is disconnected, and yet the next look finds it."""
    stage.publish("echo")
    worker = Echo(stage.attempts)
    with stage.scheduler(AtOnce(worker)) as scheduler:
        assert stage.ended(stage.submit(diamond(), shard=SHARD)) == ["succeeded"]
        stage.client.flushall()
        eventually(lambda: scheduler.counts["emptied"])
        eventually(lambda: scheduler.counts["rewound"])
        stage.publish("echo")
        assert stage.ended(stage.submit(diamond(), shard=SHARD)) == ["succeeded"]
        assert scheduler.counts["crashes"] == 0
    idle(stage)


def test_a_redis_that_restarts_whole_is_no_loss(tmp_path: Path) -> None:
    """With its append-only file nothing is missing, and nobody says so."""
    with EmbeddedRedis(tmp_path) as server:
        restarted_whole(server, Stage(server.url))


def restarted_whole(server: EmbeddedRedis, stage: Stage) -> None:
    """A run before, and one after."""
    stage.publish("echo")
    worker = Echo(stage.attempts)
    with stage.scheduler(AtOnce(worker)) as scheduler:
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
        server.stop()
        server.start()
        assert stage.ended(stage.submit(diamond())) == ["succeeded"]
        assert not scheduler.counts["rewound"]
        assert not scheduler.counts["emptied"]
    idle(stage)
