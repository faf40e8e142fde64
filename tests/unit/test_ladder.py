"""Retry ladders as users write them: in Python, JSON and YAML, checked, compiled, and read by the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler import Graph, Retry, Secret, again, changed, escalate, other
from scheduler.core.run import Run
from scheduler.errors import GraphError, InputMismatch, PathNotInOutput, UnknownClass, UnknownExecutor
from scheduler.graph.limits import MAX_ATTEMPTS

LADDER = Retry(
    steps=[
        again(3, "500ms..4s", factor=3, jitter="none", on=["timeout", "rate_limited"]),
        changed(inputs={"temperature": 0.0}, attempts=2),
        other("llm.big", attempts=2, queue_class="batch-low", timeout="20s", soft_timeout="10s"),
    ],
    max_losses=2,
    never=["budget"],
)


def loaded(graph: Graph) -> Run:
    """The run as a scheduler would load it."""
    compiled = graph.compile()
    return Run.load("r", compiled.header, compiled.pages(), created_at_ms=0)


def test_a_ladder_has_one_form_however_it_is_written() -> None:
    """Python, JSON and YAML give the same document and hash; defaults are left out."""
    g = Graph("g")
    g.add("llm.small", key="a", prompt="hi", temperature=1.0, retry=LADDER)
    for same in (Graph.from_document(g.document()), Graph.from_json(g.to_json()), Graph.from_yaml(g.to_yaml())):
        assert (same.hash, same.document()) == (g.hash, g.document())
    assert g.document()["nodes"][0]["retry"] == {
        "steps": [
            {
                "step": "again",
                "on": ["rate_limited", "timeout"],
                "base_seconds": 0.5,
                "cap_seconds": 4.0,
                "factor": 3.0,
                "jitter": "none",
            },
            {"step": "changed", "attempts": 2, "inputs": {"temperature": 0.0}},
            {
                "step": "other",
                "attempts": 2,
                "executor": "llm.big",
                "queue_class": "batch-low",
                "timeout_seconds": 20.0,
                "soft_timeout_seconds": 10.0,
            },
        ],
        "max_losses": 2,
        "never": ["budget"],
    }


def test_the_core_reads_what_was_written() -> None:
    """Kinds, attempts, waits, executor, class and limits of every step, and the inputs of its attempts."""
    g = Graph("g")
    g.add(
        "llm.small", key="a", prompt="hi", temperature=1.0, retry=LADDER, timeout="30s", queue_class="interactive-low"
    )
    run = loaded(g)
    [profile] = run.profiles
    assert (profile.max_attempts, profile.max_losses, profile.never) == (7, 2, frozenset({"budget"}))
    first, cold, big = profile.steps
    assert (first.attempts, first.on, first.base_ms, first.cap_ms, first.factor, first.jitter) == (
        3,
        frozenset({"timeout", "rate_limited"}),
        500,
        4000,
        3.0,
        False,
    )
    assert (cold.attempts, "invalid_input" in cold.on, "lost" in cold.on) == (2, True, False)
    assert ("permanent" in big.on, "lost" in big.on, "safety" in big.on) == (True, True, False)
    assert [(it.executor, it.queue_class, it.timeout_ms) for it in profile.ways] == [
        ("llm.small", "interactive-low", 30_000),
        ("llm.small", "interactive-low", 30_000),
        ("llm.big", "batch-low", 20_000),
    ]
    assert run.step_inputs == {(0, 1): '[],{"prompt":"hi","temperature":0.0}'}


def test_another_executor_has_the_limits_of_the_node_and_a_class_of_its_own() -> None:
    """A class belongs to the executor; how long an attempt may take belongs to the node."""
    g = Graph("g", timeout="9s", soft_timeout="8s", queue_class="batch-low")
    g.add("a", retry=Retry(steps=[other("b"), again(2), other("c", timeout="3s")]))
    ways = loaded(g).profiles[0].ways
    assert [(it.executor, it.queue_class, it.timeout_ms, it.soft_timeout_ms) for it in ways] == [
        ("a", "batch-low", 9000, 8000),  # the first try is always the node's own
        ("b", None, 9000, 8000),
        ("b", None, 9000, 8000),
        ("c", None, 3000, None),
    ]


def test_inputs_of_steps_build_on_one_another_until_the_executor_changes() -> None:
    """`changed` takes the place of inputs of the same names; another executor begins anew."""
    g = Graph("g")
    up = g.add("up", key="up")
    g.add(
        "a",
        key="n",
        args=[1],
        x=up,
        y=2,
        retry=Retry(
            steps=[
                changed({"y": up.out.b}),
                changed({"z": Secret("s")}),
                again(1),
                other("b"),
                other("c", inputs={"q": up.out.c}),
                changed({"r": 5}),
            ]
        ),
    )
    run = loaded(g)
    node = run.keys.index("n")
    shown = {step: template for (_, step), template in run.step_inputs.items()}
    assert shown == {
        1: ['[1],{"x":', [0, [], "output"], ',"y":', [0, ["b"], "output"], "}"],
        2: ['[1],{"x":', [0, [], "output"], ',"y":', [0, ["b"], "output"], ',"z":{"$secret":"s"}}'],
        3: ['[1],{"x":', [0, [], "output"], ',"y":', [0, ["b"], "output"], ',"z":{"$secret":"s"}}'],
        5: ['[],{"q":', [0, ["c"], "output"], "}"],
        6: ['[],{"q":', [0, ["c"], "output"], ',"r":5}'],
    }
    assert run.step_secrets == {(node, 2): [[1, "z"]], (node, 3): [[1, "z"]]}
    assert Graph.from_yaml(g.to_yaml()).hash == g.hash


def test_what_a_step_refers_to_is_upstream_of_the_node() -> None:
    """Its output must be there when the step is tried, so the node waits for it like for any input."""
    g = Graph("g")
    hint = g.add("hint", key="hint")
    g.add("a", key="n", retry=Retry(steps=[changed({"x": hint})]))
    run = loaded(g)
    assert list(run.upstream(run.keys.index("n"))) == [run.keys.index("hint")]
    assert run.readers[run.keys.index("hint")] == 1


def test_a_ladder_for_all_nodes_is_bound_to_each() -> None:
    """A graph's own retry may have steps too; every node changes its own inputs."""
    g = Graph("g", retry=Retry(steps=[changed({"t": 0})]))
    for word in ("x", "y"):
        g.add("a", key=word, word=word)
    run = loaded(g)
    assert run.step_inputs == {(0, 1): '[],{"t":0,"word":"x"}', (1, 1): '[],{"t":0,"word":"y"}'}
    assert len(run.profiles) == 1


def test_only_graphs_with_ladders_ask_for_a_newer_reader() -> None:
    """Schedulers of the version before go on reading all others."""
    plain, never, steps = (Graph("g"), Graph("g"), Graph("g"))
    plain.add("a", retry=5)
    never.add("a", retry=Retry(never=["timeout"]))
    steps.add("a", retry=Retry(steps=[again(2)]))
    found = [it.compile().header.get("min_reader") for it in (plain, never, steps)]
    assert found == [None, 3, 3]
    assert "steps" not in plain.compile().header["profiles"][0]


CONTRACTS: dict[str, dict[str, Any]] = {
    name: {
        "input_schema": {
            "type": "object",
            "properties": {"t": {"type": "number"}, **more},
            "additionalProperties": False,
            "required": list(more),
        },
        "output_schema": {"type": "object", "properties": {key: {"type": "string"} for key in outputs}},
    }
    for name, more, outputs in (("a", {}, ["text", "only_a"]), ("b", {"must": {"type": "string"}}, ["text"]))
}


@pytest.mark.parametrize(
    ("retry", "error", "text"),
    [
        (Retry(steps=[other("c")]), UnknownExecutor, r'nodes\["n"\].retry.steps\[1\].executor'),
        (Retry(steps=[changed({"t": "hot"})]), InputMismatch, r'nodes\["n"\].retry.steps\[1\].inputs\["t"\].*number'),
        (Retry(steps=[changed({"s": 1})]), InputMismatch, r"retry.steps\[1\].*there is no input 's'"),
        (Retry(steps=[other("b")]), InputMismatch, r"retry.steps\[1\].inputs.*the input 'must' is missing"),
        (Retry(steps=[other("b", inputs={"must": 5})]), InputMismatch, r'retry.steps\[1\].inputs\["must"\]'),
        (Retry(steps=[other("a", queue_class="slow")]), UnknownClass, r"retry.steps\[1\].queue_class"),
    ],
)
def test_steps_are_checked_against_contracts(retry: Retry, error: type[GraphError], text: str) -> None:
    """When the graph is submitted, not when the first attempt has failed."""
    g = Graph("g")
    g.add("a", key="n", t=1, retry=retry)
    with pytest.raises(error, match=text):
        g.compile(contracts=CONTRACTS, classes=["batch-low"])


def test_who_reads_an_output_must_be_content_with_every_executor_of_its_node() -> None:
    """A part that the fallback's output cannot have would be null one day."""
    g = Graph("g")
    n = g.add("a", key="n", retry=Retry(steps=[other("b", inputs={"must": "x"})]))
    g.add("a", key="fine", t=n.out.text)
    g.compile(contracts=CONTRACTS)
    g.add("a", key="wrong", t=n.out.only_a)
    with pytest.raises(PathNotInOutput, match=r"output of 'n' \(b\) has no"):
        g.compile(contracts=CONTRACTS)


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: Retry(steps=[]), "holds no step"),
    (lambda: Retry(steps=again(3)), "is not a list"),  # type: ignore[arg-type]  # what is refused
    (lambda: Retry(steps=["again"]), "is not a step"),  # type: ignore[list-item]  # what is refused
    (lambda: Retry(steps=[escalate("go on?"), again(1)]), "Ask a person last"),
    (lambda: Retry(steps=[again(1)] * 17), "17 steps. are more than 16"),
    (lambda: Retry(steps=[again(MAX_ATTEMPTS), other("b")]), "1001 attempts. are more than 1000"),
    (lambda: Retry(4, steps=[again(3)]), "retry.max_attempts: 4 is out of range"),
    (lambda: Retry(backoff="1s..2s", steps=[again(3)]), "Give each step its own backoff"),
    (lambda: Retry(never=["sometimes"]), "'sometimes' is not an error kind"),
    (lambda: Retry(never="timeout"), "is not a list"),
    (lambda: again(0), "again.attempts: 0 is out of range"),
    (lambda: again(on=["permanent"]), "'permanent' is what the step 'again' cannot mend"),
    (lambda: again(on=["lost"]), "cannot mend"),
    (lambda: again(on=["timeuot"]), "Did you mean 'timeout'"),
    (lambda: again(on=[]), "names no kind"),
    (lambda: again(jitter="half"), "Use one of full, none"),
    (lambda: again(backoff="1s"), "is not a pair of durations"),
    (lambda: changed({}), "changes nothing"),
    (lambda: changed({"x": 1}, on=["cancelled"]), "cannot mend"),
    (lambda: changed([1]), "is not an object"),  # type: ignore[arg-type]  # what is refused
    (lambda: other(7), "is not an executor"),
    (lambda: other("b", timeout=1, soft_timeout=2), "is not shorter"),
    (lambda: escalate(" "), "is no question"),
    (lambda: escalate("go on?", to="me"), "is not a list"),
]


@pytest.mark.parametrize(("write", "text"), REFUSED)
def test_a_policy_that_makes_no_sense_is_refused(write: Callable[[], object], text: str) -> None:
    """Where it is written, with what was found and what to do."""
    with pytest.raises(GraphError, match=text):
        write()


def test_a_step_that_asks_a_person_is_read_like_any_other() -> None:
    """From Python and from a document it is the same; what is no question is refused."""
    step: dict[str, object] = {"step": "escalate", "question": "May it?", "to": ["ops"]}
    g = Graph("g")
    g.add("a", key="n", retry=Retry(steps=[again(1), escalate("May it?", ["ops"])]))
    steps: list[dict[str, object]] = [{"step": "again", "attempts": 1}, step]
    document = {"celeriac": 1, "name": "g", "nodes": [{"key": "n", "executor": "a", "retry": {"steps": steps}}]}
    assert Graph.from_document(document).hash == g.hash
    assert g.compile().header["profiles"][0]["steps"][1]["question"] == "May it?"
    steps[1] = {**step, "question": 5}
    with pytest.raises(GraphError, match=r"retry.steps\[1\].question: 5 is no question"):
        Graph.from_document(document)


def test_places_in_errors_name_the_step() -> None:
    """What is wrong in a step's inputs is not told of the node's own."""
    g = Graph("g")
    with pytest.raises(GraphError, match=r'nodes\["n"\].retry.steps\[1\].inputs\["x"\]\[0\]'):
        g.add("a", key="n", x=[1], retry=Retry(steps=[changed({"x": [object()]})]))
    g.add("b", key="n", retry=Retry(steps=[changed({"x": g.add("c", key="c")})]))
    document = g.document()
    document["nodes"] = [it for it in document["nodes"] if it["key"] == "n"]
    with pytest.raises(GraphError, match=r'nodes\["n"\].retry.steps\[1\].inputs\["x"\]'):
        Graph.from_document(document).compile()


# --- fallbacks ------------------------------------------------------------------------------------------------


def test_a_fallback_is_one_step_more_of_the_ladder() -> None:
    """The simple policy becomes its first step; a chain of calls is a chain of executors, under one handle."""
    g = Graph("g", retry=Retry(2, "1s..8s"))
    q = g.add("q", key="q")
    a = g.add("llm.ask", key="a", q=q, hot=True)
    assert a.fallback("other.ask", retry=Retry(3, "2s..4s"), queue_class="slow", timeout="9s") is a
    assert g.fallback("a", "cache.lookup", q=q, on=["permanent", "timeout"]).key == "a"
    assert g.document()["nodes"][1]["retry"]["steps"] == [
        {"step": "again", "attempts": 2, "cap_seconds": 8.0},
        {
            "step": "other",
            "executor": "other.ask",
            "attempts": 3,
            "base_seconds": 2.0,
            "cap_seconds": 4.0,
            "queue_class": "slow",
            "timeout_seconds": 9.0,
        },
        {
            "step": "other",
            "executor": "cache.lookup",
            "attempts": 2,
            "cap_seconds": 8.0,
            "on": ["permanent", "timeout"],
            "inputs": {"q": {"$ref": "q"}},
        },
    ]
    assert Graph.from_yaml(g.to_yaml()).hash == g.hash
    run = loaded(g)
    assert [it.executor for it in run.profiles[1].ways] == ["llm.ask", "other.ask", "cache.lookup"]
    assert run.step_inputs == {(1, 2): ['[],{"q":', [0, [], "output"], "}"]}


def test_a_fallback_comes_after_the_steps_that_are_there() -> None:
    """Caps and kinds that are never tried again stay; its inputs are the node's own unless it says otherwise."""
    g = Graph("g")
    steps = [again(2), changed({"x": 2})]
    node = g.add("a", key="n", x=1, retry=Retry(2, steps=steps, never=["timeout"], max_losses=1))
    node.fallback("b", retry=1)
    node.fallback("c", retry=1, inputs={})
    run = loaded(g)
    [profile] = run.profiles
    assert (profile.max_attempts, profile.max_losses, profile.never) == (4, 1, frozenset({"timeout"}))
    assert run.step_inputs == {(0, 1): '[],{"x":2}', (0, 3): "[],{}"}
    assert Graph.from_document(g.document()).hash == g.hash


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda g: g.fallback("nobody", "b"), "nobody"),
        (lambda g: g.fallback("c", "b"), "is no work, so nobody executes it"),
        (lambda g: g.node("n").fallback(g.node("m")), "is not an executor"),
        (lambda g: g.node("n").fallback({"task": "b", "args": [1]}), "is not an executor"),
        (lambda g: g.node("n").fallback("b", retry=Retry(steps=[again(2)])), "has steps"),
        (lambda g: g.node("n").fallback("b", on=["cancelled"]), "cannot mend"),
        (lambda g: g.node("n").fallback("b", inputs={"x": 1}, x=2), "is given twice"),
        (lambda g: g.node("n").fallback("b", x=object()), r'nodes\["n"\].retry.steps\[1\].inputs\["x"\]'),
        (lambda g: Graph("other").fallback(g.node("n"), "b"), "belongs to another graph"),
        (lambda g: [g.node("n").fallback("b", retry=1) for _ in range(16)], "17 steps. are more than 16"),
    ],
)
def test_a_fallback_that_makes_no_sense_is_refused(write: Callable[[Graph], object], text: str) -> None:
    """Where it is written; the node stays as it was."""
    g = Graph("g")
    n = g.add("a", key="n")
    g.add("a", key="m")
    g.choice("c", {"yes": n.out.x > 1}, otherwise="no")
    with pytest.raises(GraphError, match=text):
        write(g)
    g.compile()


def test_a_fallback_that_needs_its_own_node_is_refused() -> None:
    """It would wait for itself."""
    g = Graph("g")
    node = g.add("a", key="n")
    node.fallback("b", x=node.error)
    with pytest.raises(GraphError, match=r"retry\.steps"):
        g.compile()
