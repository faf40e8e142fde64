"""Versions of graphs and executors: how they are written, compared and recorded."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import Graph, VersionMismatch
from scheduler.core.run import Run
from scheduler.errors import GraphError, InvalidValue
from scheduler.graph import capability, other, tool
from scheduler.graph.policy import Retry
from scheduler.versions import contract_hash, current, fits, is_compatible, version_of


def test_a_graph_says_its_version() -> None:
    """The same in Python, JSON and YAML; it is part of the hash, for another version is another graph."""
    g = Graph("g", version="3")
    g.add("x", key="n")
    assert g.document()["version"] == "3"
    for same in (Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml()), Graph.from_document(g.document())):
        assert (same.version, same.hash) == ("3", g.hash)
    without = Graph("g")
    without.add("x", key="n")
    assert without.hash != g.hash
    assert "version" not in without.document()
    assert (g.compile().header["version"], "version" in without.compile().header) == ("3", False)
    assert Graph.from_document({**without.document(), "version": None}).hash == without.hash
    for wrong in ("", 3, "x" * 257, "a\nb"):
        with pytest.raises(GraphError, match="version"):
            Graph("g", version=wrong)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(GraphError, match="version"):
            Graph.from_document({**without.document(), "version": wrong})


def test_a_node_asks_for_a_version_of_its_executor() -> None:
    """The same in documents; older readers, who would not heed it, do not read the graph; a ladder's steps are free."""
    g = Graph("g")
    g.add("web.fetch", key="n", executor_version="2.1", retry=Retry(steps=[other("cache")]))
    [node] = g.document()["nodes"]
    assert list(node)[:2] == ["executor", "executor_version"], "the canonical form is sorted"
    for same in (Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert same.hash == g.hash
    plain = Graph("p")
    plain.add("web.fetch", executor_version="2")
    plain.add("web.fetch")
    assert [it.get("executor_version") for it in plain.compile().header["profiles"]] == ["2", None]
    compiled = g.compile()
    assert (compiled.header["min_reader"], plain.compile().header["min_reader"]) == (3, 3)
    profile = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0).profiles[0]
    assert [it.executor_version for it in (profile, *profile.ways)] == ["2.1", "2.1", None]
    assert compiled.executors == {"web.fetch", "cache"}


@pytest.mark.parametrize("wrong", ["", "v2", "2.1.3", "02", ">=2", "2\n", 2, 2.1, True])
def test_a_version_that_no_node_can_ask_for_is_refused(wrong: Any) -> None:
    """With what to write."""
    with pytest.raises(InvalidValue, match=r'nodes\["n"\].executor_version.*Write a major version'):
        Graph("g").add("x", key="n", executor_version=wrong)
    document = {"celeriac": 1, "name": "g", "nodes": [{"key": "n", "executor": "x", "executor_version": wrong}]}
    with pytest.raises(InvalidValue, match="executor_version"):
        Graph.from_document(document)


@pytest.mark.parametrize(
    ("before", "now", "compatible"),
    [
        ("1", "1.9.9", True),
        ("1.4", "2.0", False),
        ("2.0", "1.9", False),
        ("10", "1", False),
        ("1.0-rc1", "1+build", True),
        ("blue", "2", True),
        ("1", "green", True),
        ("", "2", True),
        ("1", "", True),
    ],
)
def test_another_major_version_is_another_contract(before: str, now: str, compatible: bool) -> None:
    """And nothing else is: what says no version is never refused."""
    assert is_compatible(before, now) is compatible


@pytest.mark.parametrize(
    ("now", "asked", "good"),
    [
        ("2.3", "2", True),
        ("2", "2.0", True),
        ("2", "2.1", False),
        ("2.10.1", "2.9", True),
        ("3", "2", False),
        ("1.9", "2", False),
        ("blue", "2", True),
        ("2-rc1", "2", True),
    ],
)
def test_a_minor_version_is_asked_for_at_least(now: str, asked: str, good: bool) -> None:
    """Numbers are compared as numbers."""
    assert fits(now, asked) is good


def test_what_is_recorded_of_executors_follows_from_their_contracts() -> None:
    """The hash is that of all that was published, in whatever order; unknown executors are left out."""
    contracts: dict[str, dict[str, Any]] = {"a": {"version": "1.2", "doc": "x"}, "b": {"version": 7}}
    found = current(["b", "a", "a", "c"], contracts)
    assert list(found) == ["a", "b"]
    assert found["a"] == {"contract": contract_hash({"doc": "x", "version": "1.2"}), "version": "1.2"}
    assert found["b"] == {"contract": contract_hash({"version": 7})}
    assert contract_hash({"version": 8}) != contract_hash({"version": 7})
    assert version_of({}) == ""


CONTRACTS: dict[str, dict[str, Any]] = {
    "one": {"version": "1.4", "capabilities": ["do"], "tools": ["t@1"]},
    "two": {"version": "2.2", "capabilities": ["do"]},
    "none": {"version": None},
}


@pytest.mark.parametrize(
    ("executor", "asked", "text"),
    [
        ("one", "1.4", ""),
        ("one", "2", r"'one' has version 1.4 now, and the node asks for 2\. Start workers"),
        ("one", "1.5", r"version 1.4 now, and the node asks for 1.5 or later, before 2"),
        ("none", "7", ""),
        (capability("do"), "2", ""),
        (capability("do"), "3", r"'one' has version 1.4 now, and the node asks for 3"),
        (tool("t", "1"), "1", ""),
        (tool("t", "1"), "2", "'one' has version 1.4 now"),
    ],
)
def test_a_version_that_nobody_has_is_refused_at_submit(executor: Any, asked: str, text: str) -> None:
    """By an error that names both; of a capability or tool some executor must be of that version."""
    g = Graph("g")
    g.add(executor, key="n", executor_version=asked)
    if not text:
        g.check(contracts=CONTRACTS)
        return
    with pytest.raises(VersionMismatch, match=text) as found:
        g.check(contracts=CONTRACTS)
    assert (found.value.at, found.value.asked, found.value.version) == ('nodes["n"].executor_version', asked, "1.4")
