"""`celeriac graph check` says where carrying the work costs more than the work."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import Graph, Retry, Timing
from scheduler.cli.overhead import advice, of_node
from scheduler.core.run import Run
from scheduler.settings import Settings

SETTINGS = Settings.load(redis_url="redis://nowhere")


def told(graph: Graph, paces: dict[str, int] | None = None, **contracts: dict[str, Any]) -> list[str]:
    """The advice for a graph."""
    compiled = graph.compile()
    shape = Run.load("r" * 26, compiled.header, compiled.pages(), created_at_ms=0)
    return advice(shape, contracts, paces or {}, SETTINGS.classes, SETTINGS.default_class.name)


def chain(length: int, **options: Any) -> Graph:
    """One line of work."""
    graph = Graph("chain")
    before: Any = ()
    for at in range(length):
        before = graph.add("work", key=f"n{at}", after=before, **options)
    return graph


def test_a_pure_chain_in_one_class_is_told() -> None:
    """With what it costs and what to do; two steps, a branch or another class are no such chain."""
    [line] = told(chain(4))
    assert "all 4 nodes are one chain in one class" in line
    assert "One task that calls the steps" in line
    assert told(chain(2)) == []
    branched = chain(4)
    branched.add("work", key="beside", after="n0")
    assert told(branched) == []
    mixed = chain(3)
    mixed.add("work", key="other", after="n2", queue_class="batch-high")
    assert told(mixed) == []


@pytest.mark.parametrize(
    ("options", "contract", "why"),
    [
        ({"timing": Timing(alone=True)}, {}, "Timing(alone=True)"),
        ({}, {"bundle": False}, "bundle=False"),
        ({}, {"purity": "unsafe"}, "unsafe"),
        ({"retry": Retry(2, max_losses=0)}, {}, "max_losses=0"),
        ({"timeout": 0.5}, {}, "time limit is below 1 s"),
        ({"timing": Timing(silence=5)}, {}, "silent"),
    ],
)
def test_short_work_that_travels_alone_is_told(options: dict[str, Any], contract: dict[str, Any], why: str) -> None:
    """How many nodes, how long they take and who says so, and why they share no message."""
    graph = Graph("g")
    graph.add("work", key="a", **options)
    graph.add("work", key="b", **options)
    [line] = told(graph, {"work": 200}, work=contract)
    assert line.startswith("2 nodes of 'work': an attempt takes 0.2 ms (measured), its message 1 ms")
    assert why in line
    [line] = told(graph, work={**contract, "expected_seconds": 0.0005})
    assert "0.5 ms (as declared)" in line
    assert told(graph, {"work": 5_000}, work=contract) == [], "the work is longer than its message"
    assert told(graph, work=contract) == [], "nobody knows how long it takes"


def test_what_shares_messages_is_not_told() -> None:
    """Short work in a class that shares messages has nothing to change."""
    graph = Graph("g")
    graph.add("work", key="a")
    assert told(graph, {"work": 200}, work={}) == []


@pytest.mark.parametrize(
    ("timeline", "alone", "said"),
    [
        ("0,1,2,3,succeeded,w", False, ""),
        ("0,4,3,1,succeeded,w", False, "That is what a message costs"),
        ("0,4,3,1,succeeded,w", True, "Timing(alone=True)"),
        ("0,1,500,1,succeeded,w", False, "More workers of that class"),
    ],
)
def test_a_node_whose_way_was_longer_than_its_work_is_told(timeline: str, alone: bool, said: str) -> None:
    """`celeriac why RUN NODE` says where its time went, and what to do: by cause, and nothing where work prevails."""
    graph = Graph("g")
    graph.add("work", key="n", timing=Timing(alone=True) if alone else None)
    compiled = graph.compile()
    records = [(0, f"S|1|1|0|0|{timeline}|n".encode())]
    run = Run.load("r" * 26, compiled.header, compiled.pages(), records, created_at_ms=1_000)
    found = of_node(run, 0, {}, {"work": 100}, SETTINGS.classes, SETTINGS.default_class.name)
    assert said in found
    assert bool(found) is bool(said)
