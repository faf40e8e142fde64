"""Contract: implementations of one executor, tried against the same cases, and exchanged without a trace."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from scheduler import Graph, InvalidValue, NotJson, Retry
from scheduler.testing import Case, Contract, ContractFailed, simulate
from scheduler.testing.schemas import misfits
from scheduler.worker import Context, Executor, Permanent, attempt, executor


class Answer(BaseModel):
    """What whoever is asked gives."""

    text: str
    sure: float = Field(ge=0, le=1)


class LongAnswer(Answer):
    """The same, with more."""

    sources: list[str] = []


class Unsure(BaseModel):
    """Something else."""

    text: str
    sure: float | None


Question = Annotated[str, Field(min_length=1)]


@executor("ask.table", errors={KeyError: "permanent"})
def table(q: Question, limit: int = 100) -> Answer:
    """Looks it up."""
    return Answer(text={"one": "1", "two": "2"}[q][:limit], sure=1)


@executor("ask.rules", errors={LookupError: ("permanent", "executor")})
def rules(q: str, limit: int = 100, loud: bool = False) -> LongAnswer:
    """Works it out."""
    if not q:
        raise ValueError("nothing is asked")
    found = str(["zero", "one", "two"].index(q)) if q in ("one", "two") else ""
    if not found:
        raise IndexError(q)
    return LongAnswer(text=(found.upper() if loud else found)[:limit], sure=1.0)


@executor("ask.broken")
def broken(q: str, limit: str) -> Unsure:
    """Keeps nothing of the contract."""
    if q == "one":
        return Unsure(text=limit, sure=None)
    return Unsure.model_construct(sure=None)  # type: ignore[call-arg]  # that is what is broken


CASES = [
    Case({"q": "one"}, expect={"text": "1", "sure": 1.0}),
    Case({"q": "two", "limit": 0}, expect=lambda output: output["text"] == "", name="cut"),
    Case({"q": "three"}, raises="permanent"),
]


def without_more(output: Any) -> bool:
    """Whatever else is given, this is."""
    return bool(output["text"] == "1" and output["sure"] == 1.0)


ASK = Contract("ask", [Case({"q": "one"}, expect=without_more), *CASES[1:]], reference=table)


@pytest.mark.parametrize("implementation", [table, rules])
def test_the_contract_of_an_executor_passes_against_two_implementations(implementation: Executor[..., Any]) -> None:
    """Same inputs, same outputs, same kinds of errors; one may take more and give more."""
    report = ASK.check(implementation)
    assert (report.ok, report.cases, report.implementation) == (True, 3, implementation.name)


def test_a_report_names_implementation_case_expected_and_found() -> None:
    """Schemas and cases in one list; check raises it as an AssertionError."""
    contract = Contract("ask", CASES, reference=table)
    report = contract.run(broken)
    assert report.problems[:5] == (
        "schemas: input.limit: is wanted, and may be missing",
        "schemas: input.limit: may be int, wanted is string",
        "schemas: output.sure: wanted is maximum 1, and it does not say so",
        "schemas: output.sure: wanted is minimum 0, and it does not say so",
        "schemas: output.sure: may be null, wanted is double or int",
    )
    refused = "found invalid_input: InvalidInput: inputs of ask.broken: limit: "
    assert report.problems[5:] == (
        f"case {{'q': 'one'}}: expected an output, {refused}Missing required argument",
        f"case 'cut': expected an output, {refused}Input should be a valid string",
        f"case {{'q': 'three'}}: expected an error of kind permanent, {refused}Missing required argument",
    )
    with pytest.raises(ContractFailed, match=r"ask\.broken does not keep the contract 'ask'") as caught:
        contract.check(broken)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.problems == report.problems


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (Case({"q": "x", "limit": "y"}), "expected an output, found contract: ContractBroken: output of ask.broken: "),
        (Case({"q": "x", "limit": "y"}, raises="contract"), ""),
        (Case({"q": "one", "limit": "y"}), ""),
        (Case({"q": "one", "limit": "y"}, expect=Unsure(text="y", sure=None)), ""),
        (
            Case({"q": "one", "limit": "y"}, expect={"text": "z"}),
            "expected {'text': 'z'}, found {'sure': None, 'text': 'y'}",
        ),
        (Case({"q": "one", "limit": "y"}, raises="timeout"), "expected an error of kind timeout, found output {'sure'"),
        (Case({"q": "one", "limit": "y"}, expect=lambda it: it["no"]), "(KeyError: 'no')"),
        (Case({}, args=["one", "y"], expect=lambda it: False), "expected what <lambda> wants, found {'sure': None"),
    ],
)
def test_a_case_is_judged_by_the_executor_s_real_path(case: Case, problem: str) -> None:
    """Inputs and outputs are validated, exceptions have their kinds, outputs travel as JSON."""
    found = Contract("c", [case]).run(broken).problems
    assert problem in "; ".join(found) if problem else not found, found


def test_an_executor_finds_the_attempt_that_it_belongs_to() -> None:
    """By its Context parameter and by attempt(), with the key of the case; afterwards there is none."""

    @executor("seen")
    def seen(ctx: Context) -> list[str]:
        now = attempt()
        assert now is not None
        assert now.heartbeat()
        return [ctx.key, now.key]

    Contract("c", [Case({}, key="k", expect=["k", "k"])]).check(seen)
    assert attempt() is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contract("c", []), "holds no case"),
        (lambda: Contract("c", [{"q": 1}]), "is no case"),  # type: ignore[list-item]  # that is what is wrong
        (lambda: Contract("c", CASES, reference=len), "is no executor"),  # type: ignore[arg-type]  # the same
        (lambda: ASK.check(len), "is no executor"),  # type: ignore[arg-type]  # the same
        (lambda: Case({}, expect=1, raises="timeout"), "stands beside expect"),
        (lambda: Case({}, raises="time"), "is not an error kind"),
    ],
)
def test_what_is_no_contract_is_refused(make: Any, message: str) -> None:
    """What was found, where, and what to write instead."""
    with pytest.raises(InvalidValue, match=message):
        make()


def test_inputs_that_could_not_travel_are_refused() -> None:
    """They could never reach an executor."""
    with pytest.raises(NotJson, match=r"Case\(inputs\)"):
        Contract("c", [Case({"q": {1, 2}})]).run(table)


# --- schemas --------------------------------------------------------------------------------------------------

N, S = {"type": "integer"}, {"type": "string"}
TREE = {"type": "array", "items": {"$ref": "#/$defs/t"}}


def of(**fields: Any) -> dict[str, Any]:
    """An object with these fields, all of them required."""
    return {"type": "object", "properties": fields, "required": list(fields)}


@pytest.mark.parametrize(
    ("narrow", "wide", "problems"),
    [
        (N, {"type": "number"}, []),
        ({"type": "number"}, N, ["the value: may be double, wanted is int"]),
        (N, {"anyOf": [S, N]}, []),
        ({"anyOf": [N, {"type": "null"}]}, N, ["the value: may be null, wanted is int"]),
        (of(a=N), of(a=N, b=S), [".b: is wanted, and is not there"]),
        (of(a=N, b=S), of(a=N), [".b: is not known there"]),
        (of(a=N), {"type": "object"}, []),
        ({"type": "object"}, of(a=N), [".a: is wanted, and is not there", "the value: may have any other fields"]),
        (of(a=of(b=[N])), of(a=of(b=[N])), []),
        (of(a=of(b=N)), of(a=of(b=S)), [".a.b: may be int, wanted is string"]),
        ({"type": "array", "items": N}, {"type": "array", "items": S}, ["[]: may be int, wanted is string"]),
        ({"type": "array"}, {"type": "array", "items": S}, ["[]: may be "]),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, []),
        ({"enum": ["a", "c"]}, {"enum": ["a", "b"]}, ["the value: may be 'c', wanted is one of 'a', 'b'"]),
        (S, {"const": "a"}, ["the value: may be anything, wanted is one of 'a'"]),
        ({"type": "integer", "minimum": 2}, {"type": "integer", "minimum": 1}, []),
        (N, {"type": "integer", "minimum": 1}, ["the value: wanted is minimum 1, and it does not say so"]),
        (S, {"type": "string", "pattern": "^a"}, ["the value: wanted is pattern '^a', and it does not say so"]),
        ({"$ref": "#/$defs/n", "$defs": {"n": N}}, N, []),
        ({"$ref": "#/$defs/t", "$defs": {"t": TREE}}, {"$ref": "#/$defs/t", "$defs": {"t": TREE}}, []),
    ],
)
def test_schemas_fit_or_it_is_said_where_not(narrow: Any, wide: Any, problems: list[str]) -> None:
    """Every value of the one must be one of the other; what cannot be shown to be so is a problem."""
    found = misfits(narrow, wide)
    assert len(found) == len(problems), found
    assert all(one.startswith(wanted) for one, wanted in zip(found, problems, strict=True)), found


# --- S25: exchanged without a trace ---------------------------------------------------------------------------


def asking(value: str) -> Graph:
    """A question, and what hangs on how sure the answer is."""
    g = Graph("asking")
    said = g.add("ask", key="said", q=value, retry=Retry(2, base_seconds=0))
    way = g.choice("way", {"sure": said.out.sure >= 0.9}, otherwise="unsure")
    g.add("x", key="publish", text=said.out.text, after=way["sure"])
    g.add("x", key="person", after=way["unsure"])
    g.add("x", key="sorry", error=said.error, trigger_rule="one_failed")
    return g


@pytest.mark.parametrize("question", ["one", "three", 1])
def test_a_graph_goes_the_same_way_whichever_implementation_runs_it(question: Any) -> None:
    """Both really run inside the simulation: same moves, same reasons, same states, whether they succeed or fail."""
    graph = asking(question)
    one, two = (simulate(graph, {"said": it}, default=None) for it in (table, rules))
    assert one.path == two.path
    assert [(it.node, it.word, it.why) for it in one.log] == [(it.node, it.word, it.why) for it in two.log]
    assert (one.states, one.attempts) == (two.states, two.attempts)
    assert [it.kwargs for it in one.calls.get("publish", ())] == [it.kwargs for it in two.calls.get("publish", ())]


def test_another_behaviour_is_another_path() -> None:
    """So the comparison above can fail: an implementation that is never sure, and one that gives up."""

    @executor("ask.timid")
    def timid(q: str) -> Answer:
        return Answer(text=q, sure=0.5)

    @executor("ask.lazy")
    def lazy(q: Literal["one"]) -> Answer:
        raise Permanent("no")

    paths = {simulate(asking("one"), {"said": it}, default=None).path for it in (table, timid, lazy)}
    assert len(paths) == 3
