"""store/runs.py on a real Redis: submit once, find again, refuse, read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from scheduler import Graph, KeyReused, RunNotFound, StoreTooNew, StoreUnsafe
from scheduler.core.states import NodeState, RunState
from scheduler.graph import CompiledGraph
from scheduler.service.loop import Scheduler
from scheduler.store.attempts import Attempts
from scheduler.store.connection import connect
from scheduler.store.keys import STAGED_SECONDS
from scheduler.store.outcomes import log_end, read_outcomes, read_states, run_state
from scheduler.store.runs import Runs, connect_runs
from scheduler.store.scripts import COMMIT
from scheduler.wire import RunId, new_run_id, run_id_for_key
from tests.integration.scripted import WORKER, Scripted
from tests.integration.stage import settings_for


@pytest.fixture
def runs(redis_url_each: str) -> Iterator[Runs]:
    """The runs of an empty store, on every server version."""
    client = connect(redis_url_each)
    yield connect_runs(client, "cel", 16)
    client.close()


@pytest.fixture
def scripted(redis_url_each: str) -> Iterator[Callable[[RunId], Scripted]]:
    """Makes the scheduler of a run."""
    made: list[Scripted] = []

    def make(run: RunId) -> Scripted:
        made.append(Scripted(redis_url_each, run))
        return made[-1]

    yield make
    for it in made:
        it.close()


def diamond(name: str = "diamond") -> Graph:
    """Four nodes: a, then b and c, then d."""
    g = Graph(name)
    a = g.add("x", key="a", n=1)
    d = [g.add("x", key=key, value=a) for key in ("b", "c")]
    g.add("x", key="d", inputs={"values": d})
    return g


def wide(nodes: int) -> CompiledGraph:
    """A graph of nodes that wait for nothing."""
    g = Graph("wide")
    for n in range(nodes):
        g.add("x", n=n)
    return g.compile()


def dump(runs: Runs) -> dict[str, Any]:
    """All of Redis, each key with its value."""
    read = {
        b"hash": runs.client.hgetall,
        b"string": runs.client.get,
        b"stream": runs.client.xrange,
        b"list": lambda key: runs.client.lrange(key, 0, -1),
        b"zset": lambda key: runs.client.zrange(key, 0, -1, withscores=True),
    }
    return {key.decode(): read[runs.client.type(key)](key) for key in sorted(runs.client.keys())}


class Tampered:
    """A compiled graph that does something while its pages are being staged."""

    def __init__(self, graph: CompiledGraph, between: Callable[[int], None]) -> None:
        self._graph = graph
        self._between = between

    @property
    def header(self) -> Mapping[str, Any]:
        return self._graph.header

    @property
    def hash(self) -> str:
        return self._graph.hash

    def pages(self) -> Iterator[bytes]:
        for number, page in enumerate(self._graph.pages()):
            self._between(number)
            yield page


def test_a_submitted_run_is_whole_and_announced(runs: Runs) -> None:
    """Run, pages, list of live runs and inbox entry appear together; nothing staged is left."""
    run = new_run_id(runs.now_ms())
    accepted, created = runs.submit(run, diamond().compile(), {"labels": '{"a":"b"}'})
    assert accepted
    assert abs(created - runs.now_ms()) < 60_000

    keys = runs.keys.shard(runs.shard(run))
    assert set(dump(runs)) == {"cel:meta", keys.run(run), keys.spec(run), keys.live, keys.expected, keys.inbox}
    assert runs.client.ttl(keys.spec(run)) == -1
    [(_, entry)] = runs.client.xrange(keys.inbox)
    assert entry == {b"submit": run.encode()}
    assert runs.client.zrange(keys.live, 0, -1) == [run.encode()]
    found = runs.summary(run)
    assert (found.name, found.state, found.nodes, found.labels) == ("diamond", RunState.RUNNING, 4, {"a": "b"})
    assert found.created_at_ms == created


def test_the_same_graph_under_the_same_id_is_the_same_run(runs: Runs) -> None:
    """A repeated submit changes nothing, whether or not it names a key."""
    run = run_id_for_key("cel", "k")
    assert runs.submit(run, diamond().compile(), {"key": "k"})[0]
    before = dump(runs)

    assert runs.submit(run, diamond().compile(), {"key": "k"}) == (False, 0)
    assert runs.submit(run, diamond().compile(), {}) == (False, 0)
    assert dump(runs) == before


@pytest.mark.parametrize("facts", [{"key": "k"}, {}])
def test_another_graph_under_the_same_id_is_refused(runs: Runs, facts: dict[str, str]) -> None:
    """A key belongs to one graph; the run that has it stays as it is."""
    run = run_id_for_key("cel", "k")
    runs.submit(run, diamond().compile(), {"key": "k"})
    before = dump(runs)

    with pytest.raises(KeyReused) as refused:
        runs.submit(run, diamond("other").compile(), facts)
    assert (refused.value.run, refused.value.graph_hash) == (run, diamond().hash)
    assert dump(runs) == before


def test_pages_that_got_lost_are_noticed(runs: Runs) -> None:
    """A store that dropped staged pages makes no run of the rest, and says what to look at."""

    def drop(page: int) -> None:
        if page == 9:  # the second batch
            for key in runs.client.keys("*:spec:*"):
                runs.client.delete(key)

    run = new_run_id(runs.now_ms())
    with pytest.raises(StoreUnsafe, match="of 12 pages of the graph the store kept 4"):
        runs.submit(run, Tampered(wide(12_000), drop), {})
    with pytest.raises(RunNotFound):
        runs.summary(run)
    assert runs.client.zcard(runs.keys.shard(runs.shard(run)).live) == 0


def test_pages_of_a_submit_that_never_ended_expire(runs: Runs) -> None:
    """A client that dies half-way leaves nothing for ever."""

    def die(page: int) -> None:
        if page == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.submit(new_run_id(runs.now_ms()), Tampered(wide(12_000), die), {})
    [staged] = runs.client.keys("*:spec:*")
    assert 0 < runs.client.ttl(staged) <= STAGED_SECONDS


def test_two_orders_of_one_graph_submitted_at_once_do_not_mix(runs: Runs) -> None:
    """The hash does not know the order in which nodes were declared; each submission stages its own pages."""

    def graph(numbers: range) -> CompiledGraph:
        g = Graph("wide")
        for n in numbers:
            g.add("x", key=f"n{n}")
        return g.compile()

    forth, back = graph(range(1500)), graph(range(1499, -1, -1))
    assert forth.hash == back.hash
    run = run_id_for_key("cel", "k")

    def meanwhile(page: int) -> None:
        if page == 1:
            assert runs.submit(run, back, {})[0]

    assert runs.submit(run, Tampered(forth, meanwhile), {}) == (False, 0)
    assert runs.load(run).keys == [f"n{n}" for n in range(1499, -1, -1)]
    assert runs.client.keys("*:spec:*") == []


def test_a_run_comes_back_as_it_was_submitted(runs: Runs) -> None:
    """Keys, edges and facts survive; a node without a record is pending."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, diamond().compile(), {"deadline_ms": 5000, "correlation_id": "ord-1"})
    found = runs.load(run)
    assert found.keys == ["a", "b", "c", "d"]
    assert [list(found.upstream(node)) for node in range(4)] == [[], [0], [0], [1, 2]]
    assert found.tally_by_state() == {"pending": 4}
    assert found.deadline_at_ms == found.created_at_ms + 5000
    assert found.correlation_id == "ord-1"


def test_a_run_that_is_not_there_is_not_found(runs: Runs) -> None:
    """Every question about it says so."""
    nowhere = new_run_id(0)
    for ask in (runs.load, runs.summary, lambda run: run_state(runs, run)):
        with pytest.raises(RunNotFound, match=nowhere):
            ask(nowhere)
    assert runs.log(nowhere) == []
    assert log_end(runs, nowhere) == "0"


def test_text_that_is_no_run_id_never_reaches_a_key(runs: Runs) -> None:
    """A made-up id is not found, whatever it holds."""
    with pytest.raises(RunNotFound):
        runs.summary("*\n{cel:0}")


def test_the_newest_runs_come_first(runs: Runs, scripted: Callable[[RunId], Scripted]) -> None:
    """Lists are newest first over all shards, and live and ended runs can be told apart."""
    ids = [new_run_id(n) for n in range(20)]
    graph = diamond().compile()
    created = {run: runs.submit(run, graph, {})[1] for run in ids}
    it = scripted(ids[0])
    it.open()
    it.cancel("one that has ended")

    found = runs.newest(limit=100)
    assert {it.id for it in found} == set(ids)
    instants = [it.created_at_ms for it in found]
    assert instants == sorted(instants, reverse=True)
    assert instants == sorted(created.values(), reverse=True)
    assert [it.id for it in runs.newest(live=False)] == [ids[0]]
    assert len(runs.newest(ended=False)) == 19
    assert len(runs.newest(limit=3)) == 3


def test_what_was_committed_is_what_is_read(runs: Runs, scripted: Callable[[RunId], Scripted]) -> None:
    """Records, values, log and progress of a finished run agree with each other."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, diamond().compile(), {})
    it = scripted(run)
    it.open()
    it.succeed("a", {"n": 1})
    it.succeed("b")
    it.fail("c", "no")

    assert runs.values(run, range(4)).keys() == {0, 2}
    assert json.loads(runs.values(run, [0])[0]) == {"n": 1}
    assert json.loads(runs.values(run, [2])[2])["message"] == "no"
    outcomes = read_outcomes(runs, run, [0, 1, 2, 3])
    assert [outcomes[n].state.word for n in range(4)] == ["succeeded", "succeeded", "failed", "upstream_failed"]
    assert [outcomes[n].output for n in range(4)] == ["i", "n", "", ""]
    assert outcomes[3].cause == 2
    assert [outcome.state for outcome in read_states(runs, run, 4)] == [outcomes[n].state for n in range(4)]
    assert run_state(runs, run) is RunState.FAILED
    assert runs.summary(run).progress == {"succeeded": 2, "failed": 1, "upstream_failed": 1}
    loaded = runs.load(run)
    assert loaded.run_state is RunState.FAILED
    assert [NodeState(state).word for state in loaded.state] == ["succeeded", "succeeded", "failed", "upstream_failed"]
    of_run = [(id_, moves if any(it[0] == -1 for it in moves) else []) for id_, moves in runs.log(run)]
    assert runs.log(run, nodes=False) == of_run
    assert of_run[-1][1]
    assert not of_run[0][1]


def test_the_log_is_read_from_any_entry_on(runs: Runs, scripted: Callable[[RunId], Scripted]) -> None:
    """Entries come in order; reading after the newest gives nothing, and does not wait unless asked to."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, diamond().compile(), {})
    it = scripted(run)
    it.open()
    middle = log_end(runs, run)
    it.succeed("a", 1)

    everything = runs.log(run)
    assert [move[:3] for move in everything[0][1]] == [[0, "ready", 1]]
    assert [entry for entry, _ in everything if entry > middle] == [entry for entry, _ in runs.log(run, middle)]
    assert runs.log(run, log_end(runs, run)) == []
    assert runs.log(run, log_end(runs, run), block_ms=10) == []


def test_a_claimed_attempt_shows_its_worker(runs: Runs, scripted: Callable[[RunId], Scripted]) -> None:
    """Who runs a node is read from the claims, for nothing else knows it yet."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, diamond().compile(), {})
    it = scripted(run)
    it.open()
    it.send("a")
    assert runs.claimed(runs.load(run)) == {}
    it.claim("a")
    [(node, (at_ms, worker))] = runs.claimed(runs.load(run)).items()
    assert (node, worker) == (0, WORKER)
    assert abs(at_ms - runs.now_ms()) < 60_000


def test_a_request_to_cancel_waits_in_the_inbox(runs: Runs) -> None:
    """Whatever the reason holds, it arrives as JSON that can be read."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, diamond().compile(), {})
    runs.cancel(run, 'enough "of" it \ud800 🌱')
    keys = runs.keys.shard(runs.shard(run))
    _, (_, entry) = runs.client.xrange(keys.inbox)
    asked = json.loads(entry[b"cancel"])
    assert asked["run"] == run
    assert asked["reason"].startswith('enough "of" it')


def test_contracts_and_workers_are_what_was_published(runs: Runs) -> None:
    """What workers say of themselves is read back, and every publication counts the version up."""
    attempts = Attempts(runs.client)
    assert (runs.contracts(), runs.contracts_version(), runs.workers()) == ({}, 0, {})
    attempts.publish_contracts({"x": {"v": 1, "name": "x"}})
    attempts.announce_worker("w1", {"queue_class": "standard-low"})
    assert runs.contracts() == {"x": {"v": 1, "name": "x"}}
    assert runs.contracts_version() == 1
    assert runs.workers()["w1"]["queue_class"] == "standard-low"


def test_the_number_of_shards_is_fixed_by_the_first_use(runs: Runs) -> None:
    """Whoever comes later with another number gets the recorded one."""
    assert connect_runs(runs.client, "cel", 64).shards == 16
    assert connect_runs(runs.client, "other", 64).shards == 64


def test_a_store_that_a_newer_version_laid_out_is_refused(runs: Runs) -> None:
    """Neither clients nor schedulers begin on it; a store from before layouts were recorded has layout 1."""
    runs.client.hdel("cel:meta", "layout")
    assert connect_runs(runs.client, "cel", 16).shards == 16
    runs.client.hset("cel:meta", "layout", "2")
    with pytest.raises(StoreTooNew, match="layout 2, and this celeriac understands 1"):
        connect_runs(runs.client, "cel", 16)
    url = runs.client.connection_pool.connection_kwargs["path"]
    with pytest.raises(StoreTooNew):
        Scheduler(settings_for(f"unix://{url}")).run()
    assert runs.client.hlen("cel:owners") == 0
    runs.client.hset("cel:meta", "layout", "1")


def test_a_commit_that_is_cut_off_promises_nothing_that_is_missing(
    runs: Runs, scripted: Callable[[RunId], Scripted]
) -> None:
    """A wide commit goes out in several calls. Cut off after any of them, no record lacks its value or its lease."""
    run = new_run_id(runs.now_ms())
    runs.submit(run, wide(3000), {})
    it = scripted(run)
    it.open()
    batch = it.batch()
    for key in it.run.keys[:1500]:
        it.succeed(key, {"of": key}, batch=batch)
    it.send(*it.run.keys[1500:], batch=batch)
    calls = list(batch.commit(0).calls())
    assert len(calls) > 3
    script = runs.client.register_script(COMMIT.text)
    for keys, arguments in calls[:-1]:
        assert script(keys=keys, args=arguments) == b"committed"
        states = read_outcomes(runs, run, range(3000))
        flying = [n for n, found in states.items() if found.state is NodeState.DISPATCHED]
        ended = [n for n, found in states.items() if found.state is NodeState.SUCCEEDED]
        assert all(states[n].settled for n in ended)
        ids = [f"{it.shard}.{run}.{n}.1.1" for n in flying]
        assert not flying or all(runs.client.hmget(it.keys.attempts, ids))
        assert all(runs.client.zscore(it.keys.leases, id_) for id_ in ids[:50])
    keys, arguments = calls[-1]
    assert script(keys=keys, args=arguments) == b"committed"
