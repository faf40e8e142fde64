"""The client on a real Redis: submit, wait, get, follow, cancel; the scheduler's part is played move by move."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from pydantic import BaseModel

from scheduler import (
    Client,
    CycleFound,
    Event,
    Graph,
    GraphError,
    InvalidValue,
    KeyReused,
    NodeFailed,
    NodeNotFound,
    NodeState,
    NodeWithoutOutput,
    RunCancelled,
    RunError,
    RunFailed,
    RunHandle,
    RunNotFound,
    RunState,
    Settings,
    SettingsError,
    StoreError,
    StoreUnreachable,
    StoreUnsafe,
    UnknownClass,
    UnknownExecutor,
    WaitTimeout,
)
from scheduler.client import waiting
from scheduler.embedded import EmbeddedRedis
from scheduler.store import follow, submission
from scheduler.store.attempts import Attempts
from scheduler.store.connection import connect
from scheduler.store.keys import Keys
from scheduler.store.scripts import SUBMIT
from scheduler.wire import new_run_id, run_id_for_key, shard_of
from scheduler.worker import executor
from tests.integration.scripted import WORKER, Scripted

T = TypeVar("T")
GENEROUS_SECONDS = 60


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of an empty store."""
    with Client(redis_url) as found:
        yield found


@pytest.fixture
def scripted(redis_url: str) -> Iterator[Callable[[RunHandle], Scripted]]:
    """Makes the scheduler of a run, with the run opened."""
    made: list[Scripted] = []

    def make(run: RunHandle) -> Scripted:
        it = Scripted(redis_url, run.id)
        made.append(it)
        it.open()
        return it

    yield make
    for it in made:
        it.close()


@pytest.fixture
def aside() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """Runs a call in a thread, as another part of a program would."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def pair(name: str = "pair") -> Graph:
    """Two nodes, a -> b."""
    g = Graph(name)
    a = g.add("x", key="a", n=1)
    g.add("x", key="b", value=a)
    return g


def clients_blocked(redis_url: str) -> int:
    """How many connections of the server wait in a blocking command."""
    with connect(redis_url) as admin:
        return int(cast("dict[str, Any]", admin.info("clients"))["blocked_clients"])


def until(condition: Callable[[], object]) -> None:
    """Waits for a condition, generously."""
    end = time.monotonic() + GENEROUS_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        threading.Event().wait(0.005)


# --- submit -------------------------------------------------------------------------------------------------


def test_a_graph_becomes_a_run(client: Client) -> None:
    """The handle knows its id, and the store knows everything that was said about the run."""
    run = client.submit(
        pair(), key="k", labels={"team": "a"}, correlation_id="ord-1", deadline=timedelta(minutes=10), check=False
    )
    assert run.id == run_id_for_key("cel", "k") == client.run_of("k").id
    assert run.state is RunState.RUNNING
    assert not run.ready()
    found = run.summary()
    assert (found.name, found.nodes, found.key, found.labels) == ("pair", 2, "k", {"team": "a"})
    assert (found.correlation_id, found.hash) == ("ord-1", pair().hash)
    assert found.deadline_at_ms == found.created_at_ms + 600_000
    assert [it.id for it in client.runs()] == [run.id]


def test_a_document_makes_the_same_run(client: Client) -> None:
    """Python values of a document are taken as the graph they say."""
    first = client.submit(pair(), key="k")
    assert client.submit(pair().document(), key="k").id == first.id
    with pytest.raises(InvalidValue, match=r"Graph\.from_json"):
        client.submit(pair().to_json())  # type: ignore[arg-type]  # text is not guessed


def test_the_same_key_finds_the_same_run(client: Client, redis_url: str) -> None:
    """From any client, however often; another graph is refused and changes nothing."""
    run = client.submit(pair(), key="k", labels={"a": "1"})
    with Client(redis_url) as other:
        assert other.submit(pair(), key="k", labels={"a": "2"}).id == run.id
        with pytest.raises(KeyReused, match="'k'"):
            other.submit(pair("another"), key="k")
    assert run.summary().labels == {"a": "1"}
    assert len(client.runs()) == 1
    assert client.submit(pair()).id != client.submit(pair()).id


def test_a_repeated_submit_knows_the_nodes_of_the_run_that_is_there(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """Two orders of declaration have one hash but different node numbers; outputs do not get mixed up."""
    forth, back = Graph("g"), Graph("g")
    for g, keys in ((forth, "ab"), (back, "ba")):
        for key in keys:
            g.add("x", key=key)
    first = client.submit(forth, key="k")
    second = client.submit(back, key="k")
    it = scripted(first)
    it.succeed("a", "of a")
    it.succeed("b", "of b")
    assert second.results() == first.results() == {"a": "of a", "b": "of b"}


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        ({"key": ""}, "key"),
        ({"key": "tab\t"}, "key"),
        ({"key": 3}, "key"),
        ({"labels": {"a": 1}}, 'labels["a"]'),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {str(n): "x" for n in range(65)}}, "labels"),
        ({"correlation_id": "x" * 257}, "correlation_id"),
        ({"correlation_id": "\ud800"}, "correlation_id"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(client: Client, redis_url: str, wrong: Any, at: str) -> None:
    """The error names the argument, and nothing is stored."""
    with pytest.raises(GraphError) as refused:
        client.submit(pair(), **wrong)
    assert refused.value.at == at
    with connect(redis_url) as redis:
        assert redis.keys("*run*") == []


def test_a_graph_that_cannot_run_is_refused(client: Client, redis_url: str) -> None:
    """Structure is checked before anything is stored, also when contracts are not."""
    g = Graph("g")
    g.add("x", key="a", after="b")
    g.add("x", key="b", after="a")
    for check in (True, False):
        with pytest.raises(CycleFound):
            client.submit(g, check=check)
    with connect(redis_url) as redis:
        assert redis.keys("*run*") == []


def test_executors_are_checked_once_a_worker_has_published_some(client: Client, redis_url: str) -> None:
    """Before that the nodes wait; afterwards a misspelt name is refused, with the one that was meant."""
    g = Graph("g")
    g.add("text.topiks")
    assert client.submit(g).state is RunState.RUNNING
    with connect(redis_url) as redis:
        Attempts(redis).publish_contracts({"text.topics": {"v": 1, "name": "text.topics"}})
    with pytest.raises(UnknownExecutor, match=re.escape("Did you mean 'text.topics'?")):
        client.submit(g)
    assert client.submit(g, check=False).state is RunState.RUNNING
    with connect(redis_url) as redis:
        Attempts(redis).publish_contracts({"text.topiks": {"v": 1, "name": "text.topiks"}})
    assert client.submit(g).state is RunState.RUNNING


def test_classes_are_checked_when_settings_say_which_there_are(redis_url: str) -> None:
    """A class is known from the settings, or from a worker that serves it; without settings nobody knows better."""
    g = Graph("g")
    g.add("x", queue_class="gpu-high")
    with Client(redis_url) as plain, Client(settings=Settings.load(redis_url=redis_url)) as knowing:
        assert plain.submit(g).state is RunState.RUNNING
        with pytest.raises(UnknownClass, match="gpu-high"):
            knowing.submit(g)
        with connect(redis_url) as redis:
            Attempts(redis).announce_worker("w", {"queue_class": "gpu-high"})
        assert knowing.submit(g).state is RunState.RUNNING


def test_a_hundred_thousand_nodes_stream_in(client: Client, redis_url: str) -> None:
    """A large graph goes out page by page and is whole afterwards; repeating the submit sends no page again."""
    g = Graph("large")
    for n in range(100_000):
        g.add("x", key=f"n{n}", after=f"n{n - 1}" if n % 100 else ())
    run = client.submit(g, key="large")
    assert run.summary().nodes == 100_000
    with connect(redis_url) as redis:
        before = redis.info("stats")
        assert client.submit(g, key="large").id == run.id
        after = redis.info("stats")
    assert after["total_net_input_bytes"] - before["total_net_input_bytes"] < 10_000
    views = run.nodes()
    assert [view.key for view in views] == list(g.keys)
    assert sum(view.state is NodeState.READY for view in views) == 1000


def test_a_submit_whose_reply_is_lost_makes_one_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the run was stored: the client asks again and finds it."""
    plain = SUBMIT
    lost: list[Any] = []

    def losing(*args: Any) -> Any:
        answer = plain(*args)
        if not lost:
            lost.append(answer)
            raise ConnectionResetError("connection reset by peer")
        return answer

    monkeypatch.setattr(submission, "SUBMIT", losing)
    run = client.submit(pair())
    assert lost == [lost[0]]
    assert [it.id for it in client.runs()] == [run.id]
    assert run.state is RunState.RUNNING


def test_asubmit_is_submit(redis_url: str) -> None:
    """A coroutine submits and finds the same run."""

    async def work() -> tuple[RunHandle, RunHandle]:
        async with Client(redis_url) as client:
            return await client.asubmit(pair(), key="k", deadline="1h"), client.submit(pair(), key="k")

    first, second = asyncio.run(work())
    assert first.id == second.id


# --- waiting ------------------------------------------------------------------------------------------------


def test_wait_returns_when_the_run_has_ended(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], aside: Any
) -> None:
    """Somebody who blocks is woken by the end, with the state it came to; afterwards the answer is immediate."""
    run = client.submit(pair())
    it = scripted(run)
    waiter = aside(run.wait)
    until(lambda: clients_blocked(redis_url))
    it.succeed("a", 1)
    assert not waiter.done()
    it.succeed("b", 2)
    assert waiter.result(GENEROUS_SECONDS) is RunState.SUCCEEDED
    assert run.wait(timeout=0) is RunState.SUCCEEDED
    assert run.ready()


def test_waiting_sends_no_commands_while_nothing_happens(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], aside: Any
) -> None:
    """A waiter costs one blocking read, not a poll: the server counts its commands."""
    run = client.submit(pair())
    it = scripted(run)
    waiter = aside(run.wait)
    until(lambda: clients_blocked(redis_url))

    def commands() -> int:
        stats = cast("dict[str, dict[str, int]]", it.client.info("commandstats"))
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xread", "hget", "hgetall", "hmget"))

    before = commands()
    with pytest.raises(WaitTimeout):
        client.run(run.id).wait(timeout=1)
    assert commands() - before <= 4
    it.cancel("done")
    assert waiter.result(GENEROUS_SECONDS) is RunState.CANCELLED


def test_a_wait_that_takes_too_long_says_what_it_saw(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """The error names run, node, state and time; the run goes on."""
    run = client.submit(pair())
    it = scripted(run)
    it.send("a")
    for timeout in (0, "20ms", timedelta(milliseconds=20)):
        with pytest.raises(WaitTimeout) as late:
            run.wait(timeout)
        assert (late.value.run, late.value.state, late.value.node) == (run.id, "running", None)
    with pytest.raises(WaitTimeout) as late:
        run.get("a", timeout=0.02)
    assert (late.value.node, late.value.state, late.value.seconds) == ("a", "dispatched", 0.02)
    with pytest.raises(WaitTimeout):
        list(run.as_completed(timeout=0.02))
    with pytest.raises(InvalidValue):
        run.wait(timeout=-1)
    assert run.state is RunState.RUNNING


def test_get_waits_for_one_node_only(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], aside: Any
) -> None:
    """An output is there as soon as its node has ended, whatever the others do."""
    g = pair()
    run = client.submit(g)
    it = scripted(run)
    by_key, by_handle = aside(lambda: run.get("a")), aside(lambda: run.get(g.node("a"), timeout="1m"))
    until(lambda: clients_blocked(redis_url) == 2)
    it.succeed("a", {"text": "Grüße 🌱", "n": [1, 2.5, None]})
    for waiter in (by_key, by_handle):
        assert waiter.result(GENEROUS_SECONDS) == {"text": "Grüße 🌱", "n": [1, 2.5, None]}
    assert run.state is RunState.RUNNING
    it.succeed("b")
    assert run.get("b") is None


class Page(BaseModel):
    """What an executor of these tests returns."""

    url: str
    words: int


@executor("tests.client.fetch")
def fetch(url: str) -> Page:
    """Never run here."""
    return Page(url=url, words=3)


def test_a_handle_gives_what_its_executor_declares(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """By handle the output is the model of the annotation; by key it is plain JSON."""
    g = Graph("g")
    node = g.add(fetch, url="https://example.org")
    run = client.submit(g)
    it = scripted(run)
    it.succeed(node.key, {"url": "https://example.org", "words": 3})
    page = run.get(node)
    assert page == Page(url="https://example.org", words=3)
    assert page.words == 3
    assert run.get(node.key) == run.result() == {"url": "https://example.org", "words": 3}


def test_a_failed_node_raises_what_happened_there(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """The remote kind, type, message, traceback and attempt come with the error."""
    run = client.submit(pair())
    it = scripted(run)
    it.fail("a", "no such page", traceback="Traceback (most recent call last):\n  ...\nValueError: no such page")
    with pytest.raises(NodeFailed, match="no such page") as failed:
        run.get("a")
    found = failed.value
    assert (found.node, found.run, found.attempt, found.kind, found.type) == ("a", run.id, 1, "permanent", "ValueError")
    assert "most recent call last" in found.traceback


def test_a_node_that_was_passed_over_names_the_cause(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """However long the chain, the error leads to the node that failed."""
    g = Graph("chain")
    previous = g.add("x", key="n0")
    for n in range(1, 5):
        previous = g.add("x", key=f"n{n}", value=previous)
    run = client.submit(g)
    scripted(run).fail("n0", "boom")
    with pytest.raises(NodeWithoutOutput, match="upstream_failed") as missing:
        run.get("n4")
    assert missing.value.state == "upstream_failed"
    assert missing.value.cause == "node 'n0' failed: ValueError: boom"


def test_a_node_of_a_cancelled_run_says_so(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """The reason that was given for the run comes with it."""
    run = client.submit(pair())
    scripted(run).cancel("no longer needed")
    with pytest.raises(RunCancelled, match="no longer needed"):
        run.get("a")
    with pytest.raises(RunCancelled):
        run.result()
    assert run.results() == {}


def test_a_missed_deadline_is_a_failure_without_outputs(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """The run has failed; its nodes say why they have nothing to give."""
    run = client.submit(pair(), deadline="1s")
    scripted(run).miss_deadline()
    assert run.wait() is RunState.FAILED
    with pytest.raises(NodeWithoutOutput, match="deadline"):
        run.get("a")
    with pytest.raises(RunFailed):
        run.result()


def test_result_is_the_output_of_the_run(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """Of the node that the graph returns, else of its only last node; several are refused with advice."""
    one, two = pair(), pair()
    two.returns("a")
    three = pair()
    three.add("x", key="c")
    for g, wanted in ((one, "of b"), (two, "of a")):
        run = client.submit(g)
        it = scripted(run)
        it.succeed("a", "of a")
        it.succeed("b", "of b")
        assert run.result() == wanted
        assert client.run(run.id).result(timeout=0) == wanted
    with pytest.raises(RunError, match=r"2 last nodes.*Graph\.returns"):
        client.submit(three).result()


def test_the_result_of_a_failed_run_names_what_failed(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """When the result's node never ran, the error lists the nodes that failed themselves."""
    run = client.submit(pair())
    scripted(run).fail("a", "boom")
    with pytest.raises(RunFailed, match="'a': ValueError: boom") as failed:
        run.result()
    assert [node for node, _ in failed.value.causes] == ["a"]
    assert run.results() == {}


def test_large_outputs_are_fetched_when_they_are_asked_for(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """An output that was put aside comes back whole; one that is gone or changed is never passed off as it."""
    run = client.submit(pair())
    it = scripted(run)
    large = {"rows": ["x" * 1000] * 500}
    blob = it.succeed_large("a", large)
    assert run.get("a") == large
    assert next(run.as_completed()) == ("a", NodeState.SUCCEEDED, large)
    it.client.append(blob, b" ")
    with pytest.raises(StoreUnsafe, match="is not what was stored"):
        run.get("a")
    it.client.delete(blob)
    with pytest.raises(StoreUnsafe, match="is gone"):
        run.get("a")


def test_results_are_the_outputs_of_what_succeeded(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """Nodes that failed or never ran are left out; order is the graph's."""
    g = Graph("g")
    for n in range(1200):
        g.add("x", key=f"n{n}")
    run = client.submit(g)
    it = scripted(run)
    batch = it.batch()
    for n in range(1199):
        it.succeed(f"n{n}", n, batch=batch)
    it.commit(batch)
    it.fail("n1199")
    assert run.results() == {f"n{n}": n for n in range(1199)}
    assert run.wait() is RunState.FAILED


def test_as_completed_gives_every_node_once_in_its_order(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], aside: Any
) -> None:
    """What has ended already comes first, then what ends; errors come as values, and the run's end ends it."""
    g = Graph("g")
    a, b = g.add("x", key="a"), g.add("x", key="b")
    g.add("x", key="c", value=a)
    g.add("x", key="d", value=b)
    run = client.submit(g)
    it = scripted(run)
    it.succeed("b", 2)
    stream = run.as_completed()
    assert next(stream) == ("b", NodeState.SUCCEEDED, 2)
    rest = aside(lambda: list(stream))
    until(lambda: clients_blocked(redis_url))
    it.fail("a", "boom")
    it.succeed("d", 4)
    found = rest.result(GENEROUS_SECONDS)
    assert [(done.node, done.state.word) for done in found] == [
        ("a", "failed"),
        ("c", "upstream_failed"),
        ("d", "succeeded"),
    ]
    assert isinstance(found[0].value, NodeFailed)
    assert isinstance(found[1].value, NodeWithoutOutput)
    assert found[2].value == 4
    assert [done.node for done in client.run(run.id).as_completed()] == ["b", "a", "c", "d"]


def test_as_completed_misses_nothing_that_the_log_misses(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """A crash can cost lines of the log, never records: such nodes come at the end."""
    run = client.submit(pair())
    it = scripted(run)
    it.succeed("a", 1)
    it.client.delete(it.keys.log(run.id))
    it.succeed("b", 2)
    assert sorted(done.node for done in run.as_completed()) == ["a", "b"]


# --- events, nodes, cancel ----------------------------------------------------------------------------------


def test_events_tell_the_story_and_can_be_taken_up_anywhere(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], aside: Any
) -> None:
    """Every move with its cause and reason, in order; after any event's id exactly the rest follows."""
    run = client.submit(pair())
    it = scripted(run)
    following = aside(lambda: list(run.events()))
    until(lambda: clients_blocked(redis_url))
    it.succeed("a", 1)
    it.fail("b")
    story = following.result(GENEROUS_SECONDS)
    assert [(event.node, event.move) for event in story] == [
        ("a", "ready"),
        ("a", "dispatch"),
        ("a", "succeed"),
        ("b", "ready"),
        ("b", "dispatch"),
        ("b", "fail"),
        (None, "failed"),
    ]
    ready = story[3]
    assert (ready.cause, ready.attempt, ready.why) == ("a", 1, "all_success 1,0,0,0 of 1")
    created = run.summary().created_at_ms
    assert all(0 <= event.at_ms - created < 600_000 for event in story)
    assert len({event.id for event in story}) == len(story)
    for at, event in enumerate(story):
        assert list(run.events(after=event.id, follow=False)) == story[at + 1 :]
    assert list(run.events(after=story[-1].id)) == []


def test_events_without_follow_stop_at_what_is_there(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """A live run's story so far is read without waiting."""
    run = client.submit(pair())
    assert list(run.events(follow=False)) == []
    scripted(run)
    assert [event.move for event in run.events(follow=False)] == ["ready"]
    with pytest.raises(InvalidValue, match="not the id of an event"):
        list(run.events(after="yesterday"))
    with pytest.raises(WaitTimeout):
        list(run.events(timeout="20ms"))


@pytest.mark.parametrize(
    ("after", "place"),
    [
        (None, ("0", "", 0)),
        ("7-0", ("7-0", "", 0)),
        ("7-3.2", ("7-2", "7-3", 3)),
        ("7-0.0", (f"6-{2**64 - 1}", "7-0", 1)),
        ("0-0.0", ("0", "0-0", 1)),
    ],
)
def test_an_event_s_id_says_where_to_read_on(after: str | None, place: tuple[str, str, int]) -> None:
    """The log is read from just before the entry, and its first moves are passed over."""
    from scheduler.client.steps import _place

    assert _place(after) == place


def test_nodes_show_where_each_stands_and_why(client: Client, redis_url: str) -> None:
    """From the store alone: states, attempts, workers, classes, and for whom a node waits."""
    g = Graph("g", labels={"team": "a"})
    a, b = g.add("x", key="a"), g.add("x", key="b", queue_class="batch-high")
    g.add("y", key="c", inputs={"of": [a, b]}, trigger_rule="all_done")
    run = client.submit(g)

    def views() -> dict[str, Any]:
        return {view.key: view for view in run.nodes()}

    assert {key: view.state.word for key, view in views().items()} == {"a": "ready", "b": "ready", "c": "pending"}
    assert "no worker has published the executor 'x'" in views()["a"].why
    with connect(redis_url) as redis:
        attempts = Attempts(redis)
        attempts.publish_contracts({"x": {"name": "x", "queue_class": "standard-low"}})
        assert "no worker serves the queue class 'standard-low'" in views()["a"].why
        attempts.announce_worker("w", {"queue_class": "standard-low"})
    assert "room in the queue class 'standard-low'" in views()["a"].why
    assert "no worker serves the queue class 'batch-high'" in views()["b"].why

    it = Scripted(redis_url, run.id)
    it.open()
    it.send("a", "b")
    assert views()["a"].state is NodeState.DISPATCHED
    assert "no worker has begun it" in views()["a"].why
    it.claim("a")
    seen = views()
    assert seen["a"].state is NodeState.RUNNING
    assert (seen["a"].worker, seen["a"].attempt, seen["a"].labels) == (WORKER, 1, {"team": "a"})
    assert seen["a"].tries[0].claimed_at_ms > 0
    assert seen["c"].open_upstream == ("a", "b")
    assert seen["c"].why == "all_done waits for 2 of 2 upstream nodes: 'a', 'b'"
    it.fail("a", "busy", kind="transient")
    it.succeed("b", 1)
    seen = views()
    assert seen["a"].state is NodeState.WAITING
    assert seen["a"].why == "waits for its next try, failed 1 of at most 3 times"
    assert [(it.attempt, it.end) for it in seen["a"].tries] == [(1, "failed")]
    assert seen["c"].open_upstream == ("a",)
    it.cancel("enough")
    seen = views()
    assert {view.state.word for view in seen.values()} == {"succeeded", "cancelled"}
    assert seen["c"].why == "cancelled: enough"
    it.close()


def test_a_passed_over_node_shows_what_began_it(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """The cause is the node next to it, the reason leads to the root."""
    g = pair()
    g.add("x", key="c", after="b")
    run = client.submit(g)
    scripted(run).fail("a")
    seen = {view.key: view for view in run.nodes()}
    assert (seen["c"].cause, seen["c"].why) == ("b", "all_success: node 'a' failed")


def test_cancel_asks_and_the_scheduler_answers(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """The request is in the inbox when cancel returns; a run that is not there, or a bad reason, is refused."""
    run = client.submit(pair())
    it = scripted(run)
    run.cancel('no "longer" needed')
    _, (_, entry) = it.client.xrange(it.keys.inbox)
    assert b"longer" in entry[b"cancel"]
    assert run.state is RunState.RUNNING
    with pytest.raises(RunNotFound):
        client.run(new_run_id(0)).cancel()
    for reason in ("x" * 2001, 7):
        with pytest.raises(InvalidValue, match="reason"):
            run.cancel(reason)  # type: ignore[arg-type]  # what callers without a type checker do


def test_what_is_not_there_is_not_found(client: Client) -> None:
    """Runs and nodes, at once and with the nearest name."""
    run = client.submit(pair())
    with pytest.raises(NodeNotFound, match="has no node 'bb'"):
        run.get("bb")
    nowhere = client.run(new_run_id(0))
    questions: list[Callable[[], object]] = [
        lambda: nowhere.state,
        nowhere.summary,
        nowhere.wait,
        nowhere.nodes,
        lambda: nowhere.get("a"),
        nowhere.results,
        nowhere.result,
        lambda: list(nowhere.as_completed()),
        lambda: list(nowhere.events()),
    ]
    for ask in questions:
        with pytest.raises(RunNotFound):
            ask()
    for text in ("", "x", "*" * 26, "../../etc/passwd"):
        with pytest.raises(RunNotFound):
            client.run(text)


# --- coroutines -----------------------------------------------------------------------------------------------


def test_a_coroutine_waits_as_a_thread_does(client: Client, scripted: Callable[[RunHandle], Scripted]) -> None:
    """What aget, aresults, `await run` and the two streams give is what their twins give."""
    run = client.submit(pair())
    it = scripted(run)

    async def follow() -> tuple[list[Event], list[str]]:
        events = [event async for event in run.events()]
        return events, [done.node async for done in run.as_completed()]

    async def work() -> None:
        async with asyncio.timeout(GENEROUS_SECONDS):
            waiting_for = [asyncio.ensure_future(it) for it in (run.aget("a"), run.await_end(), follow())]
            with pytest.raises(WaitTimeout):
                await run.await_end(timeout="50ms")
            assert await run.astate() is RunState.RUNNING
            assert not await run.aready()
            await asyncio.to_thread(it.succeed, "a", 1)
            assert await waiting_for[0] == 1
            await asyncio.to_thread(it.succeed, "b", 2)
            assert await waiting_for[1] is RunState.SUCCEEDED
            events, nodes = cast("tuple[list[Event], list[str]]", await waiting_for[2])
            assert [event.move for event in events][-1] == "succeeded"
            assert nodes == ["a", "b"]
            assert await run is RunState.SUCCEEDED
            assert await run.aresults() == {"a": 1, "b": 2}
            assert await run.aresult() == 2
            assert (await run.asummary()).progress == {"succeeded": 2}
            assert [view.key for view in await run.anodes()] == ["a", "b"]
            await run.acancel("too late")
            assert [it.id for it in await client.aruns()] == [run.id]

    asyncio.run(work())


def test_a_thousand_coroutines_share_one_blocking_read(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """Waiters of one event loop cost one connection that blocks, and few threads; each hears of its own run."""
    graphs = [client.submit(pair()) for _ in range(50)]
    schedulers = [scripted(run) for run in graphs]

    async def work() -> None:
        async with asyncio.timeout(GENEROUS_SECONDS):
            waiters = [asyncio.create_task(run.await_end()) for run in graphs for _ in range(20)]
            others = asyncio.create_task(graphs[0].aget("b"))
            await asyncio.to_thread(until, lambda: clients_blocked(redis_url))
            assert await asyncio.to_thread(clients_blocked, redis_url) == 1
            assert threading.active_count() < 80
            for it in schedulers:
                await asyncio.to_thread(it.succeed, "a", 1)
            assert not any(waiter.done() for waiter in waiters)
            for it in schedulers:
                await asyncio.to_thread(it.succeed, "b", 2)
            assert set(await asyncio.gather(*waiters)) == {RunState.SUCCEEDED}
            assert await others == 2

    asyncio.run(work())
    until(lambda: not clients_blocked(redis_url))


def test_a_cancelled_coroutine_leaves_the_others_waiting(
    client: Client, scripted: Callable[[RunHandle], Scripted]
) -> None:
    """asyncio.timeout and cancel work as everywhere, and the shared reader goes on."""
    run = client.submit(pair())
    it = scripted(run)

    async def work() -> RunState:
        waiter = asyncio.create_task(run.await_end())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await run
        await asyncio.to_thread(it.cancel, "x")
        return await asyncio.wait_for(waiter, GENEROUS_SECONDS)

    assert asyncio.run(work()) is RunState.CANCELLED
    assert asyncio.run(run.await_end()) is RunState.CANCELLED  # another loop, the same handle


def test_a_server_that_forbids_unblocking_is_lived_with(
    client: Client, redis_url: str, scripted: Callable[[RunHandle], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CLIENT UNBLOCK is not allowed, who joins waits a moment longer, and everybody is answered."""
    monkeypatch.setattr(follow, "BLOCK_SECONDS", 0.5)
    runs = [client.submit(pair()), client.submit(pair())]
    schedulers = [scripted(run) for run in runs]
    rules = ["~*", "&*", "+@all", "-client", "+client|id"]
    schedulers[0].client.execute_command("ACL", "SETUSER", "limited", "on", ">pw", *rules)

    async def work() -> None:
        async with Client(redis_url.replace("unix://", "unix://limited:pw@")) as limited:
            first = asyncio.create_task(limited.run(runs[0].id).await_end())
            await asyncio.to_thread(until, lambda: clients_blocked(redis_url))
            second = asyncio.create_task(limited.run(runs[1].id).await_end())
            for it in schedulers:
                await asyncio.to_thread(it.cancel, "x")
            found = await asyncio.wait_for(asyncio.gather(first, second), GENEROUS_SECONDS)
            assert set(found) == {RunState.CANCELLED}

    try:
        asyncio.run(work())
    finally:
        schedulers[0].client.execute_command("ACL", "DELUSER", "limited")


# --- Redis goes away ------------------------------------------------------------------------------------------


def test_waiting_survives_a_restart_of_redis(tmp_path: Path) -> None:
    """Threads and coroutines that wait find the run again after the server was away."""
    with EmbeddedRedis(tmp_path) as server, Client(server.url) as client:
        run = client.submit(pair())
        it = Scripted(server.url, run.id)
        it.open()

        async def work() -> RunState:
            waiter = asyncio.create_task(run.await_end())
            await asyncio.to_thread(until, lambda: clients_blocked(server.url) == 2)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(it.client.connection_pool.disconnect)
            await asyncio.to_thread(it.succeed, "a", 1)
            await asyncio.to_thread(it.succeed, "b", 2)
            return await asyncio.wait_for(waiter, GENEROUS_SECONDS)

        with ThreadPoolExecutor(2) as pool:
            waiter = pool.submit(run.wait)
            assert asyncio.run(work()) is RunState.SUCCEEDED
            assert waiter.result(GENEROUS_SECONDS) is RunState.SUCCEEDED
        it.close()


def test_a_run_that_went_with_its_redis_is_not_waited_for(tmp_path: Path) -> None:
    """When the server comes back without the run, a waiter hears that instead of waiting for ever."""
    with EmbeddedRedis(tmp_path) as server, Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        run = client.submit(pair())
        waiter = pool.submit(run.wait)
        until(lambda: clients_blocked(server.url))
        with connect(server.url) as redis:
            redis.flushall()
        server.stop()
        server.start()
        with pytest.raises(RunNotFound):
            waiter.result(GENEROUS_SECONDS)


def test_a_redis_that_is_not_there_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions fail at once, submits after a few tries, waits after their time; none shows the password."""
    client = Client("redis://:s3cret@127.0.0.1:1/0")
    monkeypatch.setattr(waiting, "RECONNECT_SECONDS", 0.2)
    run = client.run(new_run_id(0))
    asks: list[Callable[[], object]] = [
        lambda: client.submit(pair()),
        client.runs,
        lambda: run.state,
        run.nodes,
        run.cancel,
        lambda: run.wait(timeout=0.1),
        run.wait,
        lambda: list(run.events()),
        lambda: asyncio.run(run.await_end(timeout=0.1)),
    ]
    for ask in asks:
        with pytest.raises(StoreUnreachable) as away:
            ask()
        assert "127.0.0.1:1" in str(away.value)
        assert "s3cret" not in repr(away.value) + str(away.value) + repr(client)


def test_a_redis_that_refuses_is_told_as_it_is(client: Client, redis_url: str) -> None:
    """An answer that does not help, such as a key of another type, is an error of the store."""
    run = client.submit(pair())
    key = Keys().shard(shard_of(run.id, 16)).run(run.id)
    questions: list[Callable[[], object]] = [lambda: run.state, run.wait]
    with connect(redis_url) as redis:
        redis.rename(key, "aside")
        redis.set(key, "x")
        for ask in questions:
            with pytest.raises(StoreError, match="refused: WRONGTYPE"):
                ask()
        redis.rename("aside", key)
    assert run.state is RunState.RUNNING


# --- where the store is -----------------------------------------------------------------------------------------


def test_settings_say_where_the_store_is(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the environment, from settings, or as arguments, which win."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELERIAC_REDIS_URL", redis_url)
    monkeypatch.setenv("CELERIAC_NAMESPACE", "shop")
    for made in (Client(), Client.from_env()):
        assert made.namespace == "shop"
        run = made.submit(pair(), key="k")
        made.close()
    with Client(redis_url) as plain:
        assert plain.namespace == "cel"
        assert plain.runs() == []
    with Client(redis_url, namespace="shop") as named:
        assert [it.id for it in named.runs()] == [run.id]
    for wrong in ("a:b", "{x}", "", "x" * 33):
        with pytest.raises(SettingsError, match="namespace"):
            Client(redis_url, namespace=wrong)
    with pytest.raises(SettingsError, match="redis_url"):
        Client("http://localhost")


def test_the_embedded_redis_of_this_directory_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a URL the client joins the server that runs here, and says what to do when none does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELERIAC_REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="no embedded Redis runs"):
        Client()
    with EmbeddedRedis(tmp_path / ".celeriac"), Client() as client:
        assert client.submit(pair()).state is RunState.RUNNING
