"""Many graphs submitted together, on a real Redis: the same runs as one by one, in fewer round trips."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import (
    Client,
    CycleFound,
    Graph,
    GraphError,
    InvalidValue,
    KeyReused,
    NotAllSubmitted,
    RunHandle,
    RunState,
    StoreFull,
    StoreUnreachable,
    Submission,
    UnknownExecutor,
)
from scheduler.client.submission import Prepared, Submitter
from scheduler.embedded import EmbeddedRedis
from scheduler.store import submission
from scheduler.store.attempts import Attempts
from scheduler.store.connection import connect
from scheduler.store.scripts import SUBMIT
from tests.hurt import Hurt

MB = 1024 * 1024


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of an empty store."""
    with Client(redis_url) as found:
        yield found


def graph(name: str, nodes: int = 2) -> Graph:
    """A chain that differs from others by its name."""
    g = Graph(name)
    before = g.add("x", n=1)
    for _ in range(nodes - 1):
        before = g.add("x", value=before)
    return g


def stored(url: str) -> dict[bytes, dict[bytes, bytes]]:
    """What Redis has of runs, but for instants."""
    with connect(url) as redis:
        found: Any = {name: redis.hgetall(name) for name in redis.keys("*:run:*")}
    return {name: {field: it for field, it in found[name].items() if field != b"created_at_ms"} for name in found}


def test_many_graphs_are_runs_of_their_own(client: Client, redis_url: str) -> None:
    """In their order, each with what was said of it, stored as if it had been submitted alone."""
    given = [Submission(graph(f"g{at}"), key=f"k{at}", labels={"n": str(at)}, priority=at % 3) for at in range(25)]
    runs = client.submit_many(given)
    together = {run.id: run.summary() for run in runs}
    assert [it.name for it in together.values()] == [f"g{at}" for at in range(25)]
    assert [it.labels for it in together.values()] == [{"n": str(at)} for at in range(25)]
    many = stored(redis_url)
    with connect(redis_url) as redis:
        redis.flushall()
    for it in given:
        client.submit(it.graph, key=it.key, labels=it.labels, priority=it.priority)
    assert stored(redis_url) == many
    assert len(many) == 2 * 25, "the facts of each run, and its one page"


def test_graphs_and_documents_may_stand_for_submissions(client: Client) -> None:
    """Whoever has nothing to say beside the graph gives the graph; none at all are no runs."""
    runs = client.submit_many([graph("a"), graph("b").document(), Submission(graph("c"))])
    assert [run.summary().name for run in runs] == ["a", "b", "c"]
    assert {run.state for run in runs} == {RunState.RUNNING}
    assert client.submit_many([]) == []


def test_hundreds_go_in_one_round_trip(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first asks Redis for its limit of memory, and one a second does; the others follow together."""
    together: list[int] = []

    class Counting:
        def __call__(self, *args: Any) -> Any:
            return SUBMIT(*args)

        def many(self, client: Any, calls: Any) -> Any:
            together.append(len(calls))
            return SUBMIT.many(client, calls)

    monkeypatch.setattr(submission, "SUBMIT", Counting())
    runs = client.submit_many(graph(f"g{at}") for at in range(450))
    assert len({run.id for run in runs}) == len(client.runs(limit=1000)) == 450
    assert sum(together) > 400
    assert max(together) == submission.TOGETHER
    assert len(together) < 20


def test_graphs_of_many_pages_go_with_the_others(client: Client) -> None:
    """Each in its own way, and all in their order."""
    runs = client.submit_many([graph("small"), graph("large", 5_000), graph("small, too")])
    assert [run.summary().nodes for run in runs] == [2, 5_000, 2]


def test_one_that_cannot_be_stops_all(client: Client, redis_url: str) -> None:
    """Everything is checked before anything is stored; the error says which it was."""
    cycle = Graph("cycle")
    cycle.add("x", key="a")
    cycle.add("x", key="b", after=["a"])
    document = json.loads(json.dumps(cycle.document()))
    document["nodes"][0]["after"] = ["b"]
    with pytest.raises(CycleFound) as refused:
        client.submit_many([graph("fine"), document, graph("fine, too")])
    assert refused.value.__notes__ == ["This is graphs[1]; nothing of any was stored."]
    with pytest.raises(InvalidValue, match="priority") as wrong:
        client.submit_many([Submission(graph("fine"), priority=99)])
    assert wrong.value.__notes__ == ["This is graphs[0]; nothing of any was stored."]
    with pytest.raises(GraphError):
        client.submit_many(["no graph"])  # type: ignore[list-item]  # text is not guessed
    with connect(redis_url) as redis:
        assert redis.keys("*run*") == []


def test_what_workers_have_published_counts_for_all(client: Client, redis_url: str) -> None:
    """An executor that nobody has is refused, and is none of our business with check=False."""
    with connect(redis_url) as redis:
        Attempts(redis).publish_contracts({"y": {"v": 1, "name": "y"}})
    with pytest.raises(UnknownExecutor):
        client.submit_many([graph("a"), graph("b")])
    assert len(client.submit_many([graph("a"), graph("b")], check=False)) == 2


def test_the_same_keys_find_the_same_runs(client: Client) -> None:
    """However often, together or alone, twice in one call too."""
    given = [Submission(graph(f"g{at}"), key=f"k{at}") for at in range(5)]
    first = client.submit_many(given)
    again = client.submit_many([*given, given[0]])
    assert [run.id for run in again] == [*(run.id for run in first), first[0].id]
    assert client.submit(graph("g3"), key="k3").id == first[3].id
    assert len(client.runs()) == 5


def test_a_key_of_another_graph_keeps_only_its_own_from_being_stored(client: Client) -> None:
    """The others are runs, and the error has their ids and what was wrong with that one."""
    client.submit(graph("theirs"), key="k1")
    with pytest.raises(NotAllSubmitted, match=r"1 of 3 graphs .* graphs\[1\]: the idempotency key 'k1'") as refused:
        client.submit_many([Submission(graph(f"g{at}"), key=f"k{at}") for at in range(3)])
    runs, errors = refused.value.runs, refused.value.errors
    assert [run is None for run in runs] == [False, True, False]
    assert {number: type(it) for number, it in errors.items()} == {1: KeyReused}
    assert {client.run(run).summary().name for run in runs if run is not None} == {"g0", "g2"}
    assert pickle.loads(pickle.dumps(refused.value)).runs == runs


def test_answers_that_are_lost_make_no_second_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after all were stored: each is sent again and finds itself."""
    client.submit_many([graph("warm")])
    plain = SUBMIT.many
    lost: list[Any] = []

    class Losing:
        def __call__(self, *args: Any) -> Any:
            return SUBMIT(*args)

        def many(self, *args: Any) -> Any:
            lost.append(plain(*args))
            raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(submission, "SUBMIT", Losing())
    runs = client.submit_many(graph(f"g{at}") for at in range(20))
    assert [len(it) for it in lost] == [20]
    assert sorted(run.id for run in runs) == sorted(it.id for it in client.runs() if it.name != "warm")


def test_a_redis_that_has_gone_is_told_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what became of them, so no run is said to be there; one wait for an answer serves all."""
    server = EmbeddedRedis(tmp_path)
    server.start()
    asked: list[Prepared] = []
    plain = Submitter._stored

    def stored(self: Submitter, it: Prepared) -> bool:
        asked.append(it)
        return plain(self, it)

    monkeypatch.setattr(Submitter, "_stored", stored)
    with Client(server.url) as client:
        client.submit_many([graph("warm")])
        prepared = client._submitter.prepare_many([graph(f"g{at}") for at in range(10)], check=True)
        server.stop()
        with pytest.raises(NotAllSubmitted) as told:
            client._submitter.send_many(prepared)
    assert told.value.runs == [None] * 10
    assert {type(it) for it in told.value.errors.values()} == {StoreUnreachable}
    assert asked == prepared[:1]


def test_a_redis_with_a_limit_takes_one_after_the_other_while_there_is_room(tmp_path: Path) -> None:
    """The memory guard holds for each of them; those that found room are runs."""
    with Hurt(tmp_path) as hurt, Client(hurt.url) as client:
        hurt.client.setrange("somebody's", 8 * MB, "x")
        hurt.client.config_set("maxmemory", int(hurt.client.info("memory")["used_memory"] / 0.8))
        with pytest.raises(NotAllSubmitted) as told:
            client.submit_many(graph(f"g{at}", 100) for at in range(40))
        stored = [run for run in told.value.runs if run is not None]
        assert 0 < len(stored) < 40
        assert {type(it) for it in told.value.errors.values()} == {StoreFull}
        assert sorted(stored) == sorted(it.id for it in client.runs())


def test_asubmit_many_is_submit_many(redis_url: str) -> None:
    """A coroutine finds the same runs."""

    async def work() -> tuple[list[RunHandle], list[RunHandle]]:
        async with Client(redis_url) as client:
            given = [Submission(graph("a"), key="a"), Submission(graph("b"), key="b")]
            return await client.asubmit_many(given), client.submit_many(given)

    first, second = asyncio.run(work())
    assert [run.id for run in first] == [run.id for run in second]
