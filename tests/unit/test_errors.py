"""Errors: facts as attributes, messages that help, and a pickle round trip for every class."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler import errors

RECORD = {
    "kind": "permanent",
    "type": "ValueError",
    "message": "no",
    "traceback": "Traceback\n  x",
    "origin": "executor",
}

EXAMPLES: list[errors.CeleriacError] = [
    errors.CeleriacError("something"),
    errors.GraphError("wrong", at="name"),
    errors.InvalidValue("name", 7, "is not text", "Write text."),
    errors.NotJson('nodes["a"].inputs["x"]', float("nan"), "is not finite", "Write null."),
    errors.TooLarge("nodes", size=2_000_001, limit=1_000_000, unit="nodes", remedy="Split it."),
    errors.UnreadableDocument("it is not JSON", line=3, column=4, remedy="Correct it."),
    errors.ExpressionError("a.output.x >", 12, "it ends here", "Write a value."),
    errors.HandleMisused("a handle stands where a value was meant"),
    errors.CycleFound(["load", "train"]),
    errors.SelfLoop("load", at='nodes["load"].after[0]'),
    errors.DuplicateNode("load", at='nodes["load"].key'),
    errors.UnknownNode("laod", at="returns", known=["load"]),
    errors.NotAnAncestor("b", "a", at='nodes["b"].inputs["x"]'),
    errors.PathNotInOutput("x", node="a", executor="e", path=("t", 0), step=1, problem="there is no item 0"),
    errors.UnknownExecutor("web.fetsh", at="x", known=["web.fetch"]),
    errors.UnknownMapper("to_invoice@2", at="x", known=["to_invoice@1"]),
    errors.UnknownTool("tool:search@3", "x", versions=["1", "2"]),
    errors.VersionMismatch("web.fetch", "2.0", "x", before="1.4"),
    errors.VersionMismatch("web.fetch", "2.0", "x", asked="2.1"),
    errors.UnknownClass("fast", at="x", known=["interactive-low"]),
    errors.ExecutorNotAllowed("web.fetch", "batch", ["llm.*"], at="x"),
    errors.InputMismatch("x", executor="e", problem="'a' is text, not integer", remedy="Write a number."),
    errors.RunError("no", run="r1"),
    errors.RunFailed("r1", [("a", RECORD), ("b", {"kind": "lost"})]),
    errors.RunCancelled("r1", "not needed"),
    errors.NodeFailed(run="r1", node="a", attempt=3, error=RECORD),
    errors.NodeWithoutOutput(run="r1", node="a", state="skipped", cause="upstream 'b' failed"),
    errors.RunNotFound("r1"),
    errors.RunLost("r1"),
    errors.RunArchived("r1", "/archive", "It cannot be retried"),
    errors.NodeNotFound("r1", "laod", ["load"]),
    errors.RequestRefused("r1", "skip", "node 'load' has been sent"),
    errors.WaitTimeout(run="r1", seconds=2.5, state="running", node="a"),
    errors.SignalRefused("r1", "paid", "no node of its graph waits for it", "Its signals are none."),
    errors.AnswerRefused("r1", "review", "it asks nobody now, it is succeeded", "Look again."),
    errors.KeyReused("day-1", run="r1", graph_hash="aa", other_hash="bb"),
    errors.NotAllSubmitted(["r1", None], {1: errors.KeyReused("day-1", run="r1", graph_hash="aa", other_hash="bb")}),
    errors.StoreError("no"),
    errors.StoreUnreachable("redis://localhost:6379/0", "connection refused"),
    errors.StoreFull(used_bytes=900, limit_bytes=850, max_bytes=1000),
    errors.DeadLetterNotFound("3-1-0"),
    errors.PolicyNotFound("7", ["6", "8"]),
    errors.StoreRefused("redis://h", [("appendonly is off", "Set it.")]),
    errors.NotRedriven("3-1-0", "it was cut"),
    errors.StoreUnsafe("appendonly is off", "Set appendonly yes."),
    errors.StoreTooNew("cel", 2, 1),
    errors.Fenced(7, 3, 4),
    errors.ArchiveError("/archive", "read-only file system"),
    errors.BundleError("run.jsonl.gz", "was changed since it was written"),
    errors.IllegalMove("node 3", "succeeded", "dispatch", ["rerun"]),
    errors.WireError("report", "has no id", {"v": 1}),
    errors.SettingsError("celeriac.toml: shards", "0 is out of range", "Write 1 to 1024"),
    errors.ExecutorError("x"),
    errors.Transient("x"),
    errors.RateLimited("slow down", 2.5),
    errors.InvalidInput("x"),
    errors.ContractBroken("x"),
    errors.Permanent("x", origin="external"),
    errors.TimedOut("x"),
    errors.SafetyRefused("x"),
    errors.BudgetExceeded("x"),
    errors.Cancelled("x"),
    errors.SecretMissing("db", ["the environment variable X"]),
]


def _classes() -> Iterator[type[errors.CeleriacError]]:
    for _, found in inspect.getmembers(errors, inspect.isclass):
        if issubclass(found, errors.CeleriacError):
            yield found


def test_every_class_has_an_example_here_and_a_line_in_the_tree() -> None:
    """A new error is not forgotten by the pickle test or by the drawing in the module's docstring."""
    classes = set(_classes())
    assert {type(e) for e in EXAMPLES} == classes
    drawn = (errors.__doc__ or "").split()
    assert [c.__name__ for c in classes if c.__name__ not in drawn] == []


def _facts(found: Any) -> Any:
    """What an error holds; errors among it as what they hold themselves, for no two of them are equal."""
    if isinstance(found, errors.CeleriacError):
        return type(found), {name: _facts(it) for name, it in vars(found).items()}
    return {name: _facts(it) for name, it in found.items()} if isinstance(found, dict) else found


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_pickles_and_copies(error: errors.CeleriacError) -> None:
    """Class, message and every fact come out of a pickle as they went in, under every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error) != ""
        assert again.args == error.args
        assert _facts(again) == _facts(error)
    assert _facts(copy.deepcopy(error)) == _facts(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_constructors_keep_their_facts(error: errors.CeleriacError) -> None:
    """What a constructor asks for by name stands as an attribute of that name, unless it only words the message."""
    names = set(inspect.signature(type(error).__init__).parameters) - {"self"}
    wording = (
        {"message", "known", "what", "value", "remedy", "allowed"}
        if not isinstance(error, errors.InvalidValue)
        else {"value", "what"}
    )
    assert [n for n in names - wording if not hasattr(error, n)] == []


def test_errors_are_also_what_python_calls_them() -> None:
    """Code that knows Python's own classes catches ours."""
    for ours, theirs in (
        (errors.GraphError, ValueError),
        (errors.HandleMisused, TypeError),
        (errors.RunNotFound, LookupError),
        (errors.NodeNotFound, LookupError),
        (errors.WaitTimeout, TimeoutError),
        (errors.StoreUnreachable, ConnectionError),
    ):
        assert issubclass(ours, theirs)


def test_a_cycle_is_shown_as_a_walk() -> None:
    """The message of a cycle is the one that STYLE promises, and a long one is cut in the middle."""
    assert str(errors.CycleFound(["load", "train"])) == (
        "the graph has a cycle: load -> train -> load. Remove one of these edges, or split 'load' into two nodes."
    )
    long = str(errors.CycleFound([f"n{i}" for i in range(5_000)]))
    assert "(4981 more)" in long
    assert len(long) < 500


def test_text_from_outside_is_escaped_and_cut() -> None:
    """Control characters never reach a terminal, and a megabyte never reaches a message."""
    bad = "\x1b[2J\u202e\x00"
    error = errors.NodeFailed(
        run=bad, node=bad, attempt=1, error={"type": bad, "message": bad + "x" * 1_000_000, "traceback": bad + "\n ok"}
    )
    assert error.remote_message.startswith(bad), "attributes hold the facts as they are"
    assert len(str(error)) < 4_000
    assert str(error).replace("\n", "").isprintable()
    for found in (errors.UnknownNode(bad, at="x"), errors.InvalidValue("x", [bad], "is bad", "Write x.")):
        assert str(found).isprintable()


def test_a_value_that_cannot_show_itself_is_shown_by_its_type() -> None:
    """A foreign __repr__ that raises, an endless list and a huge integer do not break the message about them."""

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    endless: list[object] = []
    endless.append(endless)
    assert "Rude" in errors.shown(Rude())
    assert len(errors.shown(endless)) < 200
    assert errors.shown(10**10_000) == "<int of 33220 bits>"


def test_kinds_of_executor_errors_are_the_wire_s() -> None:
    """Each class that an executor may raise stands for one kind of error record."""
    kinds = {c.__name__: c.kind for c in _classes() if issubclass(c, errors.ExecutorError)}
    assert kinds == {
        "ExecutorError": "transient",
        "Transient": "transient",
        "RateLimited": "rate_limited",
        "InvalidInput": "invalid_input",
        "ContractBroken": "contract",
        "TimedOut": "timeout",
        "SafetyRefused": "safety",
        "BudgetExceeded": "budget",
        "Cancelled": "cancelled",
        "Permanent": "permanent",
        "SecretMissing": "permanent",
    }


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no answer from redis://:s3cret@h:1/0", "no answer from redis://:***@h:1/0"),
        ("rediss://u:p@ss@h/0?x=1;amqp://a:b@c//", "rediss://u:***@h/0?x=1;amqp://a:***@c//"),
        ("https://h/x?user=a&api_token=abc&z=1", "https://h/x?user=a&api_token=***&z=1"),
        ("redis://h:6379/0 and a@b", "redis://h:6379/0 and a@b"),
        ("plain: text @ all", "plain: text @ all"),
    ],
)
def test_passwords_of_urls_are_taken_out_of_texts(text: str, clean: str) -> None:
    """Wherever in a text the URLs stand, and nothing else is touched."""
    assert errors.masked(text) == clean


def test_did_you_mean_stays_quick_on_large_graphs() -> None:
    """Only the first thousands of keys are looked at, since the search is quadratic."""
    assert errors.did_you_mean("laod", ["load"]) == " Did you mean 'load'?"
    assert errors.did_you_mean("zzz", (str(i) for i in range(10**9))) == ""


def test_a_failed_node_says_who_is_at_fault_and_where_it_was() -> None:
    """With the correlation id; what an older version stored without them reads as the commonest case."""
    told = RECORD | {"origin": "external", "phase": "collect", "correlation_id": "order 7"}
    found = errors.NodeFailed(run="r1", node="a", attempt=3, error=told)
    assert (found.origin, found.phase, found.correlation_id) == ("external", "collect", "order 7")
    old = errors.NodeFailed(run="r1", node="a", attempt=3, error={"kind": "permanent"})
    assert (old.origin, old.phase, old.correlation_id) == ("executor", "execute", "r1")


def test_what_is_refused_says_how_far_it_came() -> None:
    """A graph is validated, its executors and tools are found, and then a run is admitted."""
    phases = {c.__name__: c.__dict__["phase"] for c in _classes() if "phase" in c.__dict__}
    assert phases == {
        "GraphError": "validate",
        "ExecutorNotAllowed": "route",
        "UnknownTool": "route",
        "VersionMismatch": "route",
        "KeyReused": "admit",
        "NotAllSubmitted": "admit",
        "StoreFull": "admit",
        "SecretMissing": "dispatch",
    }
    assert set(phases.values()) <= set(errors.PHASES)
