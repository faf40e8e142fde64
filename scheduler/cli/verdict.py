"""The demo's judge: is what the run recorded what should have become of each message?

Reads the run from the store as anybody could, and believes nothing else: outcomes, who ran how often, what ran after
what. The expected outcomes come with the messages and were not made by the executors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from ..core.run import Run
from ..core.states import NodeState, RunState
from ..store.runs import Runs
from ..wire import RunId
from .values import errors_of, outputs_of

EVENTS = ("feedback_ingested", "sentiment_analyzed", "topics_extracted", "feedback_processed")


class Message(Protocol):
    """One piece of feedback, as the example has it."""

    feedback_id: str
    text: str


class Outcome(Protocol):
    """What must become of it; topics and team are None when it stops at the topics step."""

    sentiment: str
    topics: tuple[str, ...] | None
    team: str | None


class Item(NamedTuple):
    """What became of one message."""

    feedback_id: str
    text: str
    sentiment: str | None
    topics: tuple[str, ...] | None
    team: str | None
    stopped: str


@dataclass
class Verdict:
    """What became of all of them, and what of that is wrong.

    Attributes:
        stopped: messages that had to stop.  handled: of these, those whose error handler ran once, rightly.
    """

    run: str
    state: RunState
    nodes: int
    counts: dict[str, int]
    seconds: float
    items: list[Item] = field(default_factory=list)
    stopped: int = 0
    handled: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run,
            "state": self.state.value,
            "right": self.right,
            "problems": self.problems,
            "nodes": self.nodes,
            "counts": self.counts,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "errors_handled": self.handled,
            "items": [it._asdict() for it in self.items],
        }


def judge(
    runs: Runs,
    run_id: RunId,
    messages: Sequence[Message],
    expected: Mapping[str, Outcome],
    steps: Sequence[str],
) -> Verdict:
    """Compares a run that has ended with what must have become of its messages."""
    run = runs.load(run_id)
    summary = runs.summary(run_id)
    judge_ = _Judge(runs, run, steps)
    seconds = ((summary.ended_at_ms or summary.created_at_ms) - summary.created_at_ms) / 1000
    verdict = Verdict(run_id, summary.state, run.n, run.tally_by_state(), seconds)
    if summary.state is not RunState.SUCCEEDED:
        verdict.problems.append(f"the run ended {summary.state} ({summary.reason}), expected succeeded")
    for message in messages:
        wanted = expected[message.feedback_id]
        verdict.items.append(judge_.item(message))
        if wanted.team is None:
            verdict.stopped += 1
            problems = judge_.stopped(message, wanted)
            verdict.handled += not problems
        else:
            problems = judge_.processed(message, wanted)
        verdict.problems += [f"{message.feedback_id}: {problem}" for problem in problems]
    verdict.problems += judge_.tallied([expected[it.feedback_id] for it in messages])
    return verdict


class _Judge:
    """One run, with all its outputs and errors."""

    def __init__(self, runs: Runs, run: Run, steps: Sequence[str]) -> None:
        self.run = run
        self.steps = steps
        self.index = {key: node for node, key in enumerate(run.keys)}
        self.outputs = outputs_of(runs, run, range(run.n))
        self.errors = errors_of(runs, run, range(run.n))

    def node(self, step: str, message: Message) -> int:
        return self.index[f"{step}-{message.feedback_id}"]

    def output(self, step: str, message: Message) -> dict[str, Any]:
        found = self.outputs.get(self.node(step, message))
        return found if isinstance(found, dict) else {}

    def item(self, message: Message) -> Item:
        """What became of a message, by the outputs of its steps."""
        action = self.output("action", message)
        topics = self.output("topics", message).get("topics")
        logged = self.output("error", message)
        return Item(
            message.feedback_id,
            message.text,
            self.output("sentiment", message).get("sentiment"),
            None if topics is None else tuple(topics),
            action.get("team"),
            f"stopped: {logged.get('kind')}" if logged else "",
        )

    def processed(self, message: Message, wanted: Outcome) -> list[str]:
        """What is wrong with a message that had to go all the way."""
        found = self.item(message)
        problems = self._differences(found, wanted)
        nodes = [self.node(step, message) for step in self.steps]
        problems += self._states(nodes, [NodeState.SUCCEEDED] * len(nodes))
        problems += self._states([self.node("error", message)], [NodeState.SKIPPED])
        problems += self._never_ran(self.node("error", message))
        events = [self.outputs.get(node, {}).get("event") for node in nodes]
        if events != list(EVENTS):
            problems.append(f"events {events}, expected {list(EVENTS)}")
        return problems + self._in_order(nodes)

    def stopped(self, message: Message, wanted: Outcome) -> list[str]:
        """What is wrong with a message that had to stop at its topics, with one run of its error handler."""
        ingest, sentiment, topics, action, error = (self.node(step, message) for step in (*self.steps, "error"))
        problems = self._differences(self.item(message), wanted)
        problems += self._states(
            [ingest, sentiment, topics, action, error],
            [
                NodeState.SUCCEEDED,
                NodeState.SUCCEEDED,
                NodeState.FAILED,
                NodeState.UPSTREAM_FAILED,
                NodeState.SUCCEEDED,
            ],
        )
        problems += self._never_ran(action)
        for node, what in ((topics, "the failing step"), (error, "the error handler")):
            number = len(list(self.run.tries(node)))
            if number != 1:
                problems.append(f"{what} ran {number} times, expected once")
        logged, failure = self.output("error", message), self.errors.get(topics, {})
        for name in ("kind", "type", "message"):
            if not failure.get(name) or logged.get(name) != failure[name]:
                problems.append(f"the error handler was told {name} {logged.get(name)!r}, not {failure.get(name)!r}")
        if logged.get("feedback_id") != message.feedback_id or message.feedback_id not in str(logged.get("message")):
            problems.append("the error handler's details do not name the message")
        if failure.get("kind") != "permanent":
            problems.append(f"its failure is {failure.get('kind')!r}, expected 'permanent'")
        return problems + self._in_order([ingest, sentiment, topics, error])

    def tallied(self, wanted: Sequence[Outcome]) -> list[str]:
        """What is wrong with the count of all messages."""
        teams: dict[str, int] = {}
        for one in wanted:
            if one.team is not None:
                teams[one.team] = teams.get(one.team, 0) + 1
        expected = {"teams": dict(sorted(teams.items())), "stopped": sum(one.team is None for one in wanted)}
        found = None if self.run.returns is None else self.outputs.get(self.run.returns)
        return [] if found == expected else [f"the tally is {found}, expected {expected}"]

    def _differences(self, found: Item, wanted: Outcome) -> list[str]:
        problems = []
        for name in ("sentiment", "topics", "team"):
            have, want = getattr(found, name), getattr(wanted, name)
            if have != want:
                problems.append(f"{name} is {have!r}, expected {want!r}")
        return problems

    def _states(self, nodes: Sequence[int], wanted: Sequence[NodeState]) -> list[str]:
        return [
            f"{self.run.keys[node]} ended {NodeState(self.run.state[node]).word}, expected {state.word}"
            for node, state in zip(nodes, wanted, strict=True)
            if self.run.state[node] != state
        ]

    def _never_ran(self, node: int) -> list[str]:
        ran = [one for one in self.run.tries(node) if one.dispatched_at_ms]
        return [f"{self.run.keys[node]} was started, expected never"] if ran else []

    def _in_order(self, nodes: Sequence[int]) -> list[str]:
        """Each step was claimed no earlier than the one before it had ended."""
        problems = []
        for before, after in pairwise(nodes):
            first, second = list(self.run.tries(before)), list(self.run.tries(after))
            if first and second and second[0].claimed_at_ms < first[-1].ended_at_ms:
                problems.append(f"{self.run.keys[after]} began before {self.run.keys[before]} had ended")
        return problems
