"""The published schema and the validator say the same of a document, as far as a schema can say it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.core.rules import RULE_NAMES
from scheduler.errors import GraphError
from scheduler.graph import Graph
from scheduler.graph.branching import CHOICE_FIELDS, RACE_FIELDS
from scheduler.graph.document import GRAPH_FIELDS, NODE_FIELDS
from scheduler.graph.policy import RETRY_FIELDS
from scheduler.graph.schema import graph_schema
from scheduler.graph.waits import WAIT_FIELDS

SCHEMA = graph_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def accepted(document: Any) -> bool:
    """What `Graph.from_document` says."""
    try:
        Graph.from_document(document)
    except GraphError:
        return False
    return True


def beyond_schema(document: Any) -> bool:
    """What only the validator can see: a cap below the base, a soft limit that is no shorter, a key twice; whether a
    text is an expression, whether two edges or branches have one name.
    """
    if '"when":' in json.dumps(document, default=repr) and not accepted(document):
        return True
    keys = []
    for node in document["nodes"]:
        keys.append(node["key"])
        retry = node.get("retry", {})
        steps = retry.get("steps", [])
        if any(step["step"] == "escalate" for step in steps[:-1]):
            return True
        for it in (retry, *steps):
            if it.get("cap_seconds", 60) < it.get("base_seconds", 1):
                return True
        for it in (node, *steps):
            hard, soft = it.get("timeout_seconds"), it.get("soft_timeout_seconds")
            if hard is not None and soft is not None and soft >= hard:
                return True
        tries = [step for step in steps if step["step"] != "escalate"]
        together = sum(step.get("attempts", 3 if step["step"] == "again" else 1) for step in tries)
        together += bool(steps) and steps[0]["step"] != "again"
        if steps and not retry.get("max_attempts", 1) <= together <= 1000:
            return True
    return len(set(keys)) < len(keys)


def test_the_schema_is_a_schema_and_names_every_field() -> None:
    """Draft 2020-12 accepts it, and its fields are those of the validator."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert tuple(SCHEMA["properties"]) == GRAPH_FIELDS
    assert set(SCHEMA["$defs"]["node"]["else"]["else"]["else"]["properties"]) == set(NODE_FIELDS)
    assert set(SCHEMA["$defs"]["node"]["else"]["else"]["then"]["properties"]) == set(RACE_FIELDS)
    assert set(SCHEMA["$defs"]["node"]["else"]["then"]["properties"]) == set(WAIT_FIELDS)
    assert set(SCHEMA["$defs"]["node"]["then"]["properties"]) == set(CHOICE_FIELDS)
    assert tuple(SCHEMA["$defs"]["retry"]["properties"]) == RETRY_FIELDS
    assert SCHEMA["$defs"]["rule"]["anyOf"][0]["enum"] == list(RULE_NAMES)
    assert graph_schema() is not SCHEMA


SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 2, 3.0, 1.5, -1, 1000, 1001, 0.0009, 0.001, 366 * 86_400, 366 * 86_400 + 1, 2**31 - 1,
     2**31, "", "a", "b", "a\nb", "a\x7f", "ü", "x" * 256, "x" * 257, "x" * 1_025, "all_done", "quorum(2)", "quorum(0)",
     "quorum(2)\n", "quorum(12345678)", "output", "error", "20s"]
)  # fmt: skip
STEPS = st.lists(SCALARS, max_size=3) | st.just(["a"] * 64) | st.just(["a"] * 65)
MAPPERS = st.sampled_from(["m@1", "a.b-c_D9@000123", "m@1\n", "m", "m@", "m@1234567", "x" * 101 + "@1", "ü@1", "m@1@2"])
REFERENCES = st.fixed_dictionaries(
    {"$ref": st.just("a") | SCALARS},
    optional={"path": STEPS | SCALARS, "of": SCALARS, "ancestor": SCALARS, "x": SCALARS, "via": MAPPERS | SCALARS},
)
SECRETS = st.fixed_dictionaries(
    {"$secret": st.sampled_from(["db", "a.b-c_D9", "..", "..a", "", "a/b", "x" * 128, "x" * 129, "a\n", 7])},
    optional={"$ref": st.just("a"), "x": SCALARS},
)
VALUES = st.recursive(
    SCALARS | REFERENCES | SECRETS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$literal", "$secret", "b", ""]), inner, max_size=2)
        | st.fixed_dictionaries({"$literal": inner})
    ),
    max_leaves=6,
)


def usually(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, now and then anything: a document wrong in ten places tests only one."""
    return st.integers(0, 9).flatmap(lambda n: VALUES if n == 0 else good)


NUMBERS = st.sampled_from([1, 2.5, 0.001, 10.0, 60, 366 * 86_400.0])
NAMES = st.sampled_from(["a", "b", "c d", "👩‍🚀"])
RETRIES = st.fixed_dictionaries(
    {},
    optional={
        "max_attempts": usually(st.sampled_from([1, 3.0, 1000])),
        "base_seconds": usually(NUMBERS | st.just(0)),
        "cap_seconds": usually(NUMBERS | st.just(0)),
        "factor": usually(st.sampled_from([1, 100, 2.5])),
        "max_losses": usually(st.sampled_from([0, 5, 1000])),
        "never": usually(st.lists(st.sampled_from(["timeout", "lost", "x"]), max_size=2)),
    },
)
KINDS = st.lists(st.sampled_from(["timeout", "lost", "permanent", "cancelled", "x"]), max_size=2)
WAITS: dict[str, st.SearchStrategy[Any]] = {
    "attempts": usually(st.sampled_from([1, 3.0, 1000])),
    "on": usually(KINDS),
    "base_seconds": usually(NUMBERS | st.just(0)),
    "cap_seconds": usually(NUMBERS | st.just(0)),
    "factor": usually(st.sampled_from([1, 100, 2.5])),
    "jitter": usually(st.sampled_from(["full", "none"])),
}
INPUTS = usually(st.dictionaries(st.sampled_from(["x", "y"]), VALUES, max_size=2))
LADDER_STEPS = (
    st.fixed_dictionaries({"step": st.just("again")}, optional=WAITS | {"inputs": INPUTS})
    | st.fixed_dictionaries({"step": st.just("changed"), "inputs": INPUTS}, optional=WAITS | {"x": SCALARS})
    | st.fixed_dictionaries(
        {"step": usually(st.just("other")), "executor": usually(NAMES)},
        optional=WAITS
        | {
            "inputs": INPUTS,
            "queue_class": usually(NAMES | st.none()),
            "timeout_seconds": usually(NUMBERS | st.none()),
            "soft_timeout_seconds": usually(NUMBERS | st.none()),
        },
    )
    | st.fixed_dictionaries({"step": st.just("escalate"), "question": NAMES})
)
LADDERS = st.fixed_dictionaries(
    {"steps": usually(st.lists(LADDER_STEPS, max_size=3))},
    optional={
        "max_attempts": usually(st.sampled_from([1, 3.0])),
        "max_losses": usually(st.sampled_from([0, 5])),
        "never": usually(KINDS),
        "factor": st.just(2),
    },
)
CONDITIONS = st.sampled_from(["true", "a.output.x > 1", "'x' in b.output"])
EDGES = (
    NAMES
    | st.fixed_dictionaries({"node": usually(NAMES), "when": usually(CONDITIONS)}, optional={"x": SCALARS})
    | st.fixed_dictionaries({"node": usually(NAMES), "branch": usually(NAMES)}, optional={"when": CONDITIONS})
)
AFTER = st.lists(EDGES, max_size=3, unique_by=lambda it: repr(it.get("node") if isinstance(it, dict) else it))
CHOICES = st.fixed_dictionaries(
    {
        "key": usually(NAMES),
        "choice": usually(
            st.lists(
                st.fixed_dictionaries({"branch": st.sampled_from(["x", "y", "z"]), "when": usually(CONDITIONS)}),
                min_size=1,
                max_size=3,
                unique_by=lambda it: repr(it["branch"]),
            )
        ),
        "otherwise": usually(st.just("other")),
    },
    optional={"after": usually(AFTER), "when": usually(CONDITIONS), "executor": NAMES, "trigger_rule": SCALARS},
)
STOPS = st.lists(
    st.fixed_dictionaries(
        {"when": usually(CONDITIONS)},
        optional={
            "outcome": usually(st.sampled_from(["succeeded", "failed"])),
            "reason": usually(st.sampled_from(["", "ok"])),
        },
    ),
    max_size=2,
)
NODES = CHOICES | st.fixed_dictionaries(
    {"key": usually(NAMES), "executor": usually(NAMES)},
    optional={
        "args": usually(st.lists(VALUES, max_size=3)),
        "inputs": usually(st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3)),
        "after": usually(AFTER),
        "when": usually(CONDITIONS),
        "trigger_rule": usually(st.sampled_from([*RULE_NAMES, "quorum(3)"])),
        "retry": usually(RETRIES | LADDERS),
        "timeout_seconds": usually(NUMBERS | st.none()),
        "soft_timeout_seconds": usually(NUMBERS | st.none()),
        "queue_class": usually(NAMES | st.none()),
        "labels": usually(st.dictionaries(NAMES, usually(NAMES), max_size=3)),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "celeriac": usually(st.sampled_from([1, 1.0])),
        "name": usually(NAMES),
        "nodes": usually(st.lists(NODES, min_size=1, max_size=2, unique_by=lambda n: repr(n["key"]))),
    },
    optional={"returns": usually(NAMES | st.none()), "stops": usually(STOPS)},
)


def one(**node: Any) -> dict[str, Any]:
    """A document of one node with these fields."""
    return {"celeriac": 1, "name": "g", "nodes": [{"key": "a", "executor": "x", **node}]}


@settings(max_examples=400)
@given(DOCUMENTS)
@example({"celeriac": True, "name": "g", "nodes": [{"key": "a", "executor": "x"}]})
@example({"celeriac": 1, "name": "g", "nodes": []})
@example({"celeriac": 1, "name": "g", "nodes": [{"key": "a"}]})
@example({"celeriac": 1, "name": "g", "nodes": [{"key": "a", "executor": "x"}], "more": 1})
@example(one(labels={str(i): "x" for i in range(64)}))
@example(one(labels={str(i): "x" for i in range(65)}))
@example(one(inputs={"v": {"$ref": "a", "path": ["x" * 1_024, 2**31 - 1, 0.0]}}))
@example(one(inputs={"v": {"$ref": "a", "path": [-1]}}))
@example(one(inputs={"v": {"$literal": {"$ref": 1, "$literal": {}}}}))
@example(one(inputs={"v": {"$literal": []}}))
@example(one(inputs={"v": {"$secret": ".."}}))
@example(one(inputs={"v": {"$secret": "a\n"}}))
@example(one(inputs={"v": [{"$secret": "db", "x": 1}]}))
@example(one(retry={"factor": 100.0, "max_attempts": 1000.0}))
def test_schema_and_validator_agree(document: Any) -> None:
    """What the schema accepts the validator accepts, and the other way round, but for what no schema can say."""
    valid = VALIDATOR.is_valid(document)
    if valid and beyond_schema(document):
        assert not accepted(document)
    else:
        assert accepted(document) == valid, list(VALIDATOR.iter_errors(document))


@pytest.mark.parametrize("name", ["", "a\x00", "a\x1f", "a\n", "\x80b", "x" * 257])
def test_names_are_judged_alike(name: str) -> None:
    """Everywhere a name stands."""
    for document in (
        one(key=name), one(executor=name), one(after=[name]), one(queue_class=name), one(labels={name: "x"}),
        one(labels={"x": name}), one(args=[{"$ref": name}]), {**one(), "name": name}, {**one(), "returns": name},
    ):  # fmt: skip
        assert not VALIDATOR.is_valid(document)
        assert not accepted(document)


def test_what_the_builder_writes_is_valid() -> None:
    """Documents that come out of the builder pass the published schema."""
    from scheduler.graph import Retry

    g = Graph("g", retry=Retry(4, "0s..30s"), labels={"team": "a"})
    a = g.add("x", key="a", timeout=3, soft_timeout="500ms", queue_class="batch-high")
    g.add(
        "y",
        after=a,
        trigger_rule="quorum(1)",
        v={"$ref": "data", "x": []},
        w=[a.error.message, a.out[0].b.of_ancestor()],
    )
    g.returns(a)
    VALIDATOR.validate(g.document())
