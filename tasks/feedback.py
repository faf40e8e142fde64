"""Customer feedback, an executor a step: ingest, sentiment, topics, action; one that notes failures, one that counts.

Keyword rules stand in for models. Words are looked for anywhere in the text, in any case, inside other words too:
"glove" holds "love". Pure functions of their inputs, so a repeated attempt does no harm.
"""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from pydantic import BaseModel, StringConstraints

from scheduler.worker import Context, Permanent, executor

logger = logging.getLogger(__name__)

QUICK = "interactive-low"
ORDINARY = "standard-low"

FeedbackId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Sentiment = Literal["positive", "negative", "neutral"]
Topic = Literal["technical_issue", "feature_request", "general_inquiry"]
Team = Literal["Urgent Technical Support", "Product Development Team", "Product Ideas Team", "General Support"]


class Ingested(BaseModel):
    """A message as it came in."""

    event: Literal["feedback_ingested"] = "feedback_ingested"
    feedback_id: FeedbackId
    text: Text


class Analyzed(BaseModel):
    """A message with its sentiment."""

    event: Literal["sentiment_analyzed"] = "sentiment_analyzed"
    feedback_id: FeedbackId
    text: Text
    sentiment: Sentiment


class Extracted(BaseModel):
    """A message with its sentiment and topics."""

    event: Literal["topics_extracted"] = "topics_extracted"
    feedback_id: FeedbackId
    text: Text
    sentiment: Sentiment
    topics: list[Topic]


class Processed(BaseModel):
    """Which team has the message now."""

    event: Literal["feedback_processed"] = "feedback_processed"
    feedback_id: FeedbackId
    sentiment: Sentiment
    topics: list[Topic]
    team: Team


class Failure(BaseModel):
    """An error record of a step, as far as it is of interest here; other fields are left aside."""

    kind: str
    type: str = ""
    message: str = ""
    origin: str = ""


class Logged(BaseModel):
    """What was noted about a message that could not be processed."""

    event: Literal["error_event"] = "error_event"
    feedback_id: FeedbackId
    kind: str
    type: str
    message: str
    attempt: int


class Tally(BaseModel):
    """How many messages each team got, and how many stopped on the way."""

    teams: dict[str, int]
    stopped: int


def _holds(text: str, *words: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in words)


@executor("feedback.ingest", queue_class=QUICK, timeout=30, purity="pure", cost=1)
def ingest(feedback_id: FeedbackId, text: Text) -> Ingested:
    """Take a message in."""
    return Ingested(feedback_id=feedback_id, text=text)


@executor("feedback.sentiment", queue_class=QUICK, timeout=30, purity="pure", cost=1)
def sentiment(feedback: Ingested) -> Analyzed:
    """Is the writer pleased? Praise outweighs complaint."""
    found: Sentiment = "neutral"
    if _holds(feedback.text, "great", "love"):
        found = "positive"
    elif _holds(feedback.text, "bad", "issue"):
        found = "negative"
    return Analyzed(feedback_id=feedback.feedback_id, text=feedback.text, sentiment=found)


@executor("feedback.topics", queue_class=QUICK, timeout=30, purity="pure", cost=1)
def topics(feedback: Analyzed) -> Extracted:
    """What is it about?

    Raises:
        Permanent: the text mentions a crash; a person has to read it, and trying again changes nothing.
    """
    position = feedback.text.lower().find("crash")
    if position >= 0:
        raise Permanent(
            f"feedback {feedback.feedback_id} mentions a crash at character {position + 1} of {len(feedback.text)}; "
            "topics of crash reports are for a person to find"
        )
    found: list[Topic] = []
    if _holds(feedback.text, "bug", "error"):
        found.append("technical_issue")
    if _holds(feedback.text, "feature", "suggest"):
        found.append("feature_request")
    return Extracted(
        feedback_id=feedback.feedback_id,
        text=feedback.text,
        sentiment=feedback.sentiment,
        topics=found or ["general_inquiry"],
    )


@executor("feedback.action", queue_class=ORDINARY, timeout=60, purity="idempotent", cost=1)
def action(feedback: Extracted) -> Processed:
    """Hand the message to the team that can do something about it."""
    team: Team = "General Support"
    if feedback.sentiment == "negative" and "technical_issue" in feedback.topics:
        team = "Urgent Technical Support"
    elif feedback.sentiment == "positive" and "feature_request" in feedback.topics:
        team = "Product Development Team"
    elif "feature_request" in feedback.topics:
        team = "Product Ideas Team"
    return Processed(feedback_id=feedback.feedback_id, sentiment=feedback.sentiment, topics=feedback.topics, team=team)


@executor("feedback.log_error", queue_class=QUICK, timeout=30, purity="idempotent", cost=1)
def log_error(feedback_id: FeedbackId, error: Failure | None, ctx: Context) -> Logged:
    """Note that a message could not be processed, and why. `error` is null when its failed step never began."""
    failure = error or Failure(kind="upstream_failed", message="an earlier step failed, so this one never began")
    logger.error("feedback %r stopped (%s): %r", feedback_id, failure.kind, failure.message)
    return Logged(
        feedback_id=feedback_id,
        kind=failure.kind,
        type=failure.type,
        message=failure.message,
        attempt=ctx.number,
    )


@executor("feedback.tally", queue_class=ORDINARY, timeout=60, purity="pure", cost=1)
def tally(processed: list[Processed | None]) -> Tally:
    """Count messages by team. A message that stopped on the way is null."""
    teams: dict[str, int] = {}
    for one in processed:
        if one is not None:
            teams[one.team] = teams.get(one.team, 0) + 1
    return Tally(teams=dict(sorted(teams.items())), stopped=sum(one is None for one in processed))
