"""What a run is said to be: state, queue class and reason of each node, from records and what workers published."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import Graph
from scheduler.cli.work import demand_of
from scheduler.client.views import NodeView, Workers, view_nodes
from scheduler.core.run import Run
from scheduler.core.states import NodeState, RunState
from scheduler.settings import Settings

NOW = 1_000_000
CLASSES = Settings.load().classes
CONTRACTS: dict[str, dict[str, Any]] = {"x": {}, "gpu": {"queue_class": "gpu-high"}}


def stored(graph: Graph, **records: str) -> Run:
    """The run of a graph, with these records."""
    compiled = graph.compile()
    found = [(compiled.index(key), record.encode()) for key, record in records.items()]
    return Run.load("0" * 26, compiled.header, compiled.pages(), found, created_at_ms=1)


def one(executor: str = "x", queue_class: str | None = None) -> Graph:
    """A graph of a single node."""
    g = Graph("one")
    g.add(executor, key="a", queue_class=queue_class)
    return g


def workers(**described: Any) -> Workers:
    """One worker that was just heard of, when it is described at all."""
    announced = {"w": {"seen_at_ms": NOW, **described}} if described else {}
    return Workers(CONTRACTS, announced, NOW, CLASSES)


def view(run: Run, published: Workers, claimed: dict[int, tuple[int, str]] | None = None) -> dict[str, NodeView]:
    """Key -> what is said of the node."""
    return {it.key: it for it in view_nodes(run, claimed or {}, published)}


SENT = "D|1|1|0|0|0,5|"


@pytest.mark.parametrize(
    ("graph", "record", "published", "queue_class", "why"),
    [
        (one("new"), None, workers(), None, "waits: no worker has published the executor 'new'"),
        (one("new", "a-class"), None, workers(), "a-class", "waits: no worker has published the executor 'new'"),
        (one(), None, workers(), "standard-low", "waits: no worker serves the queue class 'standard-low'"),
        (one("gpu"), None, workers(), "gpu-high", "waits: no queue class 'gpu-high' is declared here"),
        (
            one("gpu"),
            None,
            workers(queue_class="gpu-high"),
            "gpu-high",
            "waits for room in the queue class 'gpu-high', or for a scheduler",
        ),
        (
            one(),
            None,
            workers(queues=["celeriac.standard-low"]),
            "standard-low",
            "waits for room in the queue class 'standard-low', or for a scheduler",
        ),
        (one(), None, Workers(CONTRACTS, {}, NOW), None, "waits for the scheduler"),
        (one(), SENT, workers(), "standard-low", "sent, and no worker serves the queue class 'standard-low'"),
        (one(), SENT, workers(queue_class="standard-low"), "standard-low", "sent, and no worker has begun it yet"),
        (
            one(),
            "W|1|1|2|0|0,1,1,5,failed,w|",
            workers(),
            "standard-low",
            "waits for its next try, failed 2 of at most 3 times",
        ),
        (one(), "K|1|0|0|0||", workers(), "standard-low", "all_success"),
        (one(), "S|1|1|0|0|0,1,1,5,succeeded,w|i", workers(), "standard-low", ""),
    ],
)
def test_a_node_says_its_class_and_why_it_is_not_further(
    graph: Graph, record: str | None, published: Workers, queue_class: str | None, why: str
) -> None:
    """No class is guessed for an executor that nobody has published."""
    it = view(stored(graph, **({} if record is None else {"a": record})), published)["a"]
    assert (it.queue_class, it.why) == (queue_class, why)


def test_a_claim_makes_a_sent_node_run() -> None:
    """State, worker, reason and the instant of the claim, all from the claim; the worker's name is escaped."""
    it = view(stored(one(), a=SENT), workers(), {0: (9, "\x1bw")})["a"]
    assert (it.state, it.worker, it.why) == (NodeState.RUNNING, "\x1bw", "on \\x1bw")
    assert [(one.claimed_at_ms, one.worker) for one in it.tries] == [(9, "\x1bw")]


def test_a_pending_node_names_whom_it_waits_for() -> None:
    """The first few, escaped; and when there is nobody left, that it is the scheduler's turn."""
    g = Graph("g")
    above = [g.add("x", key=f"\u202e{number}") for number in range(7)]
    g.add("x", key="last", after=above)
    run = stored(g)
    it = view(run, workers())["last"]
    assert it.why.startswith("all_success waits for 7 of 7 upstream nodes: '\\u202e0', '\\u202e1'")
    assert it.why.endswith("'\\u202e4' and 2 more")
    failed = stored(g, **{f"\u202e{number}": "F|1|1|1|0|0,1,1,5,failed,w|" for number in range(7)})
    assert view(failed, workers())["last"].why == "waits for the scheduler"
    run.run_state = RunState.FAILED
    assert view(run, workers())["\u202e0"].state is NodeState.PENDING


def test_every_node_of_a_long_chain_names_the_one_that_began_it() -> None:
    """Each next to its own cause, in one pass."""
    g = Graph("chain")
    last = g.add("x", key="0")
    for number in range(1, 20_000):
        last = g.add("x", key=str(number), after=[last])
    records = {str(number): f"U|1|0|0|0||{number - 1}" for number in range(1, 20_000)}
    seen = view(stored(g, **records, **{"0": "F|1|1|1|0|0,1,1,5,failed,w|"}), workers())
    assert {it.why for key, it in seen.items() if key != "0"} == {"all_success: node '0' failed"}
    assert seen["19999"].cause == "19998"


def test_a_worker_that_missed_four_heartbeats_is_not_counted_on() -> None:
    """By its own interval, else five seconds."""
    announced = {
        "live": {"seen_at_ms": NOW - 20_000, "queue_class": "standard-low"},
        "slow": {"seen_at_ms": NOW - 200_000, "queue_class": "batch-high", "heartbeat_seconds": 60},
        "dead": {"seen_at_ms": NOW - 20_001, "queue_class": "interactive-low"},
    }
    found = Workers({}, announced, NOW, CLASSES)
    assert (set(found.live), found.silent) == ({"live", "slow"}, {"dead": 20_001})
    assert set(found.serving) == {"standard-low", "batch-high"}


def test_demand_is_counted_by_the_same_classes_and_reasons() -> None:
    """Nodes that can go to a class, attempts that were sent, and nodes that can go to nobody."""
    runs = [stored(one()), stored(one(), a=SENT), stored(one("new")), stored(one("gpu")), stored(one("gpu"), a=SENT)]
    found = demand_of(workers(), [*runs, stored(one(), a="S|1|1|0|0|0,1,1,5,succeeded,w|i")])
    assert (found.ready, found.flying) == ({"standard-low": 1}, {"standard-low": 1, "gpu-high": 1})
    assert found.apart == {
        "no worker has published the executor 'new'": 1,
        "no queue class 'gpu-high' is declared here": 1,
    }
