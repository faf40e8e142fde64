"""Waits as they are declared: the same from Python, JSON and YAML, and refused with words where they make no sense."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from scheduler.errors import GraphError
from scheduler.graph import Graph, Timing


def written(**node: object) -> Graph:
    """A document of one node."""
    return Graph.from_document({"celeriac": 1, "name": "g", "nodes": [{"key": "w", **node}]})


def everything() -> Graph:
    """Every way to wait, with all that can be said of it."""
    g = Graph("waits")
    nap = g.timer("nap", "90d", until=datetime(2027, 1, 1, tzinfo=UTC), labels={"why": "law"})
    paid = g.signal("paid", name="payment", schema={"type": "object"}, within="1h", default={}, after=nap)
    g.signal("bare", transient=True, trigger_rule="all_done", after=paid)
    g.approval(
        "review", "Ship it?", choices=["yes", "no"], form={"type": "string"}, who=["ann"], within="1d", default="no",
        escalate=[("4h", ["boss"])], shown={"sum": paid.out.sum}, when=paid.out.sum > 3,
    )  # fmt: skip
    timing = Timing(
        delay="1m",
        not_before="2027-01-01T00:00:00+01:00",
        start_timeout="5s",
        total_timeout="1h",
        silence="30s",
        expected="2s",
        outside=timedelta(1),
    )
    g.add("farm.submit", key="render", timing=timing)
    g.add("farm.submit", key="open end", timing=Timing(outside=True))
    return g


def test_waits_are_the_same_however_they_are_written() -> None:
    """One canonical form and one hash; who cannot read them must not run them."""
    g = everything()
    assert Graph.from_document(g.document()).hash == g.hash
    assert Graph.from_yaml(g.to_yaml()).hash == g.hash
    assert Graph.from_document(g.document()).compile().pages().__next__() == g.compile().pages().__next__()
    assert g.compile().header["min_reader"] == 3


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda g: g.timer("t"), "neither how long nor until when"),
        (lambda g: g.timer("t", until="2027-01-01T00:00:00"), "has no zone"),
        (lambda g: g.timer("t", "soon"), "is not a duration"),
        (lambda g: g.signal("s", schema=[]), "is no JSON Schema"),
        (lambda g: g.signal("s", schema={"type": "strange"}), "is no JSON Schema"),
        (lambda g: g.signal("s", schema={"properties": {"a": {"pattern": "x"}}}), "is not taken in such a schema"),
        (lambda g: g.signal("s", schema={"$ref": "https://example.org/x"}), "refers to another document"),
        (lambda g: g.signal("s", default=1), "there is no time"),
        (lambda g: g.signal("s", schema={"type": "string"}, within="1s", default=1), "does not fit its schema"),
        (lambda g: g.approval("q", ""), "is no question"),
        (lambda g: g.approval("q", "?", choices=["a", "a"]), "different names"),
        (lambda g: g.approval("q", "?", within="1s", default="perhaps"), "is no choice"),
        (lambda g: g.approval("q", "?", escalate=[("1h", "boss")]), "is not a list"),
        (lambda g: g.add("x", timing="10m"), "is no Timing"),
        (lambda g: Timing(not_before="tomorrow"), "is no instant"),
        (lambda g: written(wait={"kind": "nap"}), "no way to wait"),
        (lambda g: written(wait={"kind": "timer"}, executor="x"), "is not a field here"),
    ],
)
def test_a_wait_that_makes_no_sense_is_refused(write: Callable[[Graph], object], text: str) -> None:
    """Where it is written, with what was found and what to do."""
    with pytest.raises(GraphError, match=text):
        write(Graph("g"))


def test_signals_of_one_name_are_of_one_schema() -> None:
    """Else nobody could say whether a payload fits."""
    g = Graph("g")
    g.signal("a", name="paid", schema={"type": "string"})
    g.signal("b", name="paid")
    with pytest.raises(GraphError, match="has another schema than at"):
        g.compile()


def test_a_property_may_have_the_name_of_a_word_of_schemas() -> None:
    """`pattern` is refused as a rule and not as a field's name."""
    g = Graph("g")
    g.signal("s", schema={"type": "object", "properties": {"pattern": {"type": "string"}}})
    assert len(g.compile().keys) == 1


def test_what_a_wait_gives_is_known_when_the_graph_is_checked() -> None:
    """A condition on an answer that can never be true or false is refused at submit."""
    g = Graph("g")
    review = g.approval("review", "?", choices=["yes", "no"])
    g.add("x", when=review.out.choice > 3)
    with pytest.raises(GraphError, match="review"):
        g.compile()
