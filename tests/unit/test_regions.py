"""Regions of a graph: a label, however it is written, and part of the graph's hash like any other."""

from __future__ import annotations

import pytest

from scheduler.errors import InvalidValue
from scheduler.graph import Graph


def test_nodes_that_are_added_inside_belong_to_the_region() -> None:
    """Nested regions are named with a slash; a node's own label wins, and behind the block everything is as before."""
    graph = Graph("g", labels={"team": "shop"})
    with graph.region("prices"):
        graph.add("x", key="a")
        with graph.region("eu"):
            graph.add("x", key="b")
            graph.choice("c", {"yes": "true"}, otherwise="no")
        graph.add("x", key="d", labels={"region": "other"})
    graph.add("x", key="e")
    found = {node["key"]: node.get("labels", {}) for node in graph.document()["nodes"]}
    assert found == {
        "a": {"team": "shop", "region": "prices"},
        "b": {"team": "shop", "region": "prices/eu"},
        "c": {"region": "prices/eu"},
        "d": {"team": "shop", "region": "other"},
        "e": {"team": "shop"},
    }
    assert Graph.from_yaml(graph.to_yaml()).hash == graph.hash


def test_a_region_ends_also_when_its_block_fails() -> None:
    """And its name is checked like any other."""
    graph = Graph("g")
    with pytest.raises(ZeroDivisionError), graph.region("prices"):
        raise ZeroDivisionError
    graph.add("x", key="a")
    assert "labels" not in graph.document()["nodes"][0]
    with pytest.raises(InvalidValue, match="region"), graph.region(""):
        pass
