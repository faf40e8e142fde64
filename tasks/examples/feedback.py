"""The customer-feedback pipeline: what happens to a batch of messages, as one graph.

Per message::

    ingest -> sentiment -> topics -> action -> (tally of all messages)
                              `----> error        runs only when topics failed, and gets its error record

A message whose topics step fails stops there: its action is upstream_failed, its error node has run once. The others
go on, and the run succeeds, for the failure was dealt with. `celeriac demo` runs it; so does
``celeriac run tasks.examples.feedback:graph``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from scheduler import Graph

HERE = Path(__file__).parent
STEPS = ("ingest", "sentiment", "topics", "action")

FIRST_MESSAGES = (
    ("FB001", "The new feature is great, but I found a small bug when saving settings."),
    ("FB002", "I love the new design! Could you add an option for dark mode?"),
    ("FB003", "This app is so bad, constant issues, fix it!"),
    ("FB004", "Just a general inquiry about subscription plans."),
    ("FB005", "CRASH again when I open the export dialog. Please call me back."),
)


class Message(NamedTuple):
    """One piece of feedback."""

    feedback_id: str
    text: str


class Outcome(NamedTuple):
    """What must become of a message; topics and team are None when it stops at the topics step."""

    feedback_id: str
    sentiment: str
    topics: tuple[str, ...] | None
    team: str | None


def messages(limit: int | None = None) -> list[Message]:
    """The first five, then those of feedback_messages.jsonl; at most `limit` in all."""
    rest = (Message(one["feedback_id"], one["text"]) for one in _lines("feedback_messages.jsonl"))
    return [*(Message(*one) for one in FIRST_MESSAGES), *rest][:limit]


def expected() -> dict[str, Outcome]:
    """What must become of each of them, as recorded beside them: id -> outcome."""
    return {
        one["feedback_id"]: Outcome(
            one["feedback_id"], one["sentiment"], None if one["topics"] is None else tuple(one["topics"]), one["team"]
        )
        for one in _lines("feedback_expected.jsonl")
    }


def graph(limit: int | None = None, given: Iterable[Message] | None = None) -> Graph:
    """The pipeline over the shipped messages, or over those given.

    Args:
        limit: only so many of the shipped ones.
        given: messages with distinct ids.
    """
    g = Graph("customer-feedback")
    actions = []
    for feedback_id, text in messages(limit) if given is None else given:
        label = {"feedback": feedback_id}

        def key(step: str, id_: str = feedback_id) -> str:
            return f"{step}-{id_}"

        ingested = g.add("feedback.ingest", feedback_id=feedback_id, text=text, key=key("ingest"), labels=label)
        analyzed = g.add("feedback.sentiment", feedback=ingested, key=key("sentiment"), labels=label)
        extracted = g.add("feedback.topics", feedback=analyzed, key=key("topics"), labels=label)
        actions.append(g.add("feedback.action", feedback=extracted, key=key("action"), labels=label))
        g.add(
            "feedback.log_error",
            feedback_id=feedback_id,
            error=extracted.error,
            trigger_rule="one_failed",
            key=key("error"),
            labels=label,
        )
    g.returns(g.add("feedback.tally", processed=actions, trigger_rule="all_done", key="tally"))
    return g


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
