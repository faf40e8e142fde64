"""The feedback executors by themselves: rules, contracts, what fails. No scheduler, no broker, no Redis."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from scheduler.worker import Context, ContractBroken, InvalidInput, Permanent
from tasks import feedback
from tasks.examples import feedback as example

RULES = [
    # text, sentiment, topics, team
    ("great", "positive", ["general_inquiry"], "General Support"),
    ("I LOVE it", "positive", ["general_inquiry"], "General Support"),
    ("this is bad", "negative", ["general_inquiry"], "General Support"),
    ("an issue", "negative", ["general_inquiry"], "General Support"),
    ("hello", "neutral", ["general_inquiry"], "General Support"),
    ("great, but bad", "positive", ["general_inquiry"], "General Support"),
    ("a bug", "neutral", ["technical_issue"], "General Support"),
    ("an Error", "neutral", ["technical_issue"], "General Support"),
    ("a bad bug", "negative", ["technical_issue"], "Urgent Technical Support"),
    ("great, a bug", "positive", ["technical_issue"], "General Support"),
    ("a feature", "neutral", ["feature_request"], "Product Ideas Team"),
    ("I suggest", "neutral", ["feature_request"], "Product Ideas Team"),
    ("a bad feature", "negative", ["feature_request"], "Product Ideas Team"),
    ("a great feature", "positive", ["feature_request"], "Product Development Team"),
    ("a feature, a bug", "neutral", ["technical_issue", "feature_request"], "Product Ideas Team"),
    ("bad feature, bug", "negative", ["technical_issue", "feature_request"], "Urgent Technical Support"),
    ("great feature, bug", "positive", ["technical_issue", "feature_request"], "Product Development Team"),
    ("a glove for the ladybug", "positive", ["technical_issue"], "General Support"),
    ("BUG in full width: \uff22\uff35\uff27", "neutral", ["technical_issue"], "General Support"),
    ("\uff22\uff35\uff27 only", "neutral", ["general_inquiry"], "General Support"),
]


def processed(text: str, feedback_id: str = "x") -> feedback.Processed:
    """All four steps, called as the functions they are."""
    return feedback.action(feedback.topics(feedback.sentiment(feedback.ingest(feedback_id=feedback_id, text=text))))


def oracle(text: str) -> tuple[str, tuple[str, ...] | None, str | None]:
    """The same rules written another way: sentiment, topics, team; topics and team are None when it must stop."""

    def found(*words: str) -> bool:
        return re.search("|".join(words), text.lower()) is not None

    sentiment = {(True, True): "positive", (True, False): "positive", (False, True): "negative"}.get(
        (found("great", "love"), found("bad", "issue")), "neutral"
    )
    if found("crash"):
        return sentiment, None, None
    technical, request = found("bug", "error"), found("feature", "suggest")
    topics = {
        (False, False): ("general_inquiry",),
        (True, False): ("technical_issue",),
        (False, True): ("feature_request",),
        (True, True): ("technical_issue", "feature_request"),
    }[technical, request]
    team = "Product Ideas Team" if request else "General Support"
    if request and sentiment == "positive":
        team = "Product Development Team"
    if technical and sentiment == "negative":
        team = "Urgent Technical Support"
    return sentiment, topics, team


@pytest.mark.parametrize(("text", "sentiment", "topics", "team"), RULES, ids=[rule[0] for rule in RULES])
def test_the_rules(text: str, sentiment: str, topics: list[str], team: str) -> None:
    """Each row of the table is what the steps make of that text."""
    found = processed(text)
    assert (found.sentiment, found.topics, found.team) == (sentiment, topics, team)


@pytest.mark.parametrize(
    ("feedback_id", "sentiment", "topics", "team"),
    [
        ("FB001", "positive", {"technical_issue", "feature_request"}, "Product Development Team"),
        ("FB002", "positive", {"general_inquiry"}, "General Support"),
        ("FB003", "negative", {"general_inquiry"}, "General Support"),
        ("FB004", "neutral", {"general_inquiry"}, "General Support"),
    ],
)
def test_the_first_four_messages(feedback_id: str, sentiment: str, topics: set[str], team: str) -> None:
    """The outcomes that the pipeline was described with."""
    text = dict(example.FIRST_MESSAGES)[feedback_id]
    found = processed(text, feedback_id)
    assert (found.sentiment, set(found.topics), found.team) == (sentiment, topics, team)


@pytest.mark.parametrize("word", ["crash", "CRASH", "Crash", "crashed", "crashpad"])
def test_a_crash_stops_a_message_for_good(word: str) -> None:
    """In any case, and with details: which message, where in it."""
    analyzed = feedback.sentiment(feedback.ingest(feedback_id="FB900", text=f"It is great, but {word}!"))
    with pytest.raises(Permanent, match=r"feedback FB900 mentions a crash at character 18 of ") as raised:
        feedback.topics(analyzed)
    assert raised.value.kind == "permanent"


def test_every_shipped_message_has_its_recorded_outcome() -> None:
    """Executors, the outcomes recorded beside the messages, and rules written another way all agree."""
    expected = example.expected()
    messages = example.messages()
    assert [it.feedback_id for it in messages] == list(expected)
    for feedback_id, text in messages:
        recorded = expected[feedback_id]
        assert (recorded.sentiment, recorded.topics, recorded.team) == oracle(text), feedback_id
        if recorded.team is None:
            continue
        found = processed(text, feedback_id)
        assert (found.sentiment, tuple(found.topics), found.team) == oracle(text), feedback_id


def test_there_are_enough_messages_and_they_differ() -> None:
    """Two hundred beside the first five, each text once, every outcome among them, some not ASCII, some that stop."""
    messages = example.messages()
    assert len(messages) >= 205
    assert len({it.feedback_id for it in messages}) == len({it.text for it in messages}) == len(messages)
    teams = Counter(it.team for it in example.expected().values())
    assert set(teams) == {*get_args(feedback.Team), None}
    assert teams[None] >= 5
    assert sum(not it.text.isascii() for it in messages) >= 15


def test_the_error_handler_notes_what_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Kind, type and message of the failure, and which try this was; the log line names the message."""
    failure = {"kind": "permanent", "type": "Permanent", "message": "FB9 mentions", "origin": "executor", "more": 1}
    found = run(feedback.log_error, feedback_id="FB9", error=failure)
    assert found == {
        "event": "error_event",
        "feedback_id": "FB9",
        "kind": "permanent",
        "type": "Permanent",
        "message": "FB9 mentions",
        "attempt": 1,
    }
    assert "FB9" in caplog.text


def test_the_error_handler_copes_with_a_step_that_never_began() -> None:
    """When an earlier step failed there is no error record of the topics step."""
    assert run(feedback.log_error, feedback_id="FB9", error=None)["kind"] == "upstream_failed"


def test_the_tally_counts_teams_and_stopped_messages() -> None:
    """A message that stopped on the way arrives as null."""
    one = json.loads(processed("a great feature").model_dump_json())
    two = json.loads(processed("hello").model_dump_json())
    assert run(feedback.tally, processed=[one, None, two, two]) == {
        "teams": {"General Support": 2, "Product Development Team": 1},
        "stopped": 1,
    }


def run(executor: Any, **inputs: Any) -> Any:
    """As a worker runs it: inputs and output are JSON and are checked."""
    return executor.run(**inputs)


def test_inputs_that_cannot_be_are_refused() -> None:
    """An empty text, a missing field, a wrong type."""
    for inputs in ({"feedback_id": "x", "text": ""}, {"feedback_id": "x"}, {"feedback_id": "x", "text": ["a"]}):
        with pytest.raises(InvalidInput):
            run(feedback.ingest, **inputs)


def test_an_output_that_breaks_its_contract_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team that is not one of the declared ones never leaves the worker."""
    broken = {"feedback_id": "x", "sentiment": "neutral", "topics": [], "team": "Nobody"}
    monkeypatch.setattr(feedback.action, "function", lambda **_: broken)
    analyzed = {"feedback_id": "x", "text": "a", "sentiment": "neutral", "topics": ["general_inquiry"]}
    with pytest.raises(ContractBroken):
        run(feedback.action, feedback=analyzed)


def test_executors_say_where_they_run() -> None:
    """Two queue classes are in use, and every executor has a time limit and a line of description."""
    contracts = [
        it.contract()
        for it in vars(feedback).values()
        if hasattr(it, "contract") and str(getattr(it, "name", "")).startswith("feedback.")
    ]
    assert len(contracts) == 6
    assert {it["queue_class"] for it in contracts} == {"interactive-low", "standard-low"}
    assert all(it["timeout_seconds"] and it["doc"] and it["input_schema"] and it["output_schema"] for it in contracts)


def test_a_context_is_only_asked_for_where_it_is_used() -> None:
    """Called as a function, the error handler gets an empty context."""
    found = feedback.log_error(feedback_id="x", error=None, ctx=Context(number=3))
    assert found.attempt == 3


def test_the_graph_has_five_nodes_a_message_and_a_tally() -> None:
    """Four steps in a row, and an error node that runs when topics failed."""
    graph = example.graph(limit=2)
    nodes = {node["key"]: node for node in graph.document()["nodes"]}
    assert len(nodes) == 11
    assert nodes["error-FB001"]["trigger_rule"] == "one_failed"
    assert nodes["error-FB001"]["inputs"]["error"] == {"$ref": "topics-FB001", "of": "error"}
    assert nodes["tally"]["trigger_rule"] == "all_done"
    assert graph.document()["returns"] == "tally"
    contracts = {it.name: it.contract() for it in vars(feedback).values() if hasattr(it, "contract")}
    assert example.graph().compile(contracts=contracts).nodes == 5 * len(example.messages()) + 1


def test_executors_use_public_names_only() -> None:
    """What tasks import of celeriac is what a user's own app may import."""
    source = Path(feedback.__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) (scheduler[\w.]*)", source, flags=re.MULTILINE)
    assert set(imported) == {"scheduler.worker"}
