"""The demo's judge finds every kind of wrong outcome: it is what exit status 0 of the demo rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.cli.verdict import Verdict, judge
from scheduler.core.run import Run
from scheduler.core.states import LETTERS, NodeState, RunState
from scheduler.errors import Permanent
from scheduler.store.summaries import Summary
from scheduler.wire import RunId
from tasks import feedback
from tasks.examples import feedback as example

ID = RunId("0" * 26)
LIMIT = 6
STATES = {state.word: LETTERS[state] for state in NodeState}


class Recorded:
    """What a right run of the example would have left in the store; tests spoil parts of it."""

    def __init__(self) -> None:
        self.compiled = example.graph(LIMIT).compile()
        self.state = RunState.SUCCEEDED
        self.records: dict[str, str] = {}
        self.found: dict[str, Any] = {}
        for message in example.messages(LIMIT):
            self._message(message.feedback_id, message.text)
        expected = [example.expected()[it.feedback_id] for it in example.messages(LIMIT)]
        teams = sorted({it.team for it in expected if it.team})
        counts = {team: sum(it.team == team for it in expected) for team in teams}
        self.end("tally", "succeeded", 90, {"teams": counts, "stopped": sum(it.team is None for it in expected)})

    def _message(self, id_: str, text: str) -> None:
        value: Any = feedback.ingest(feedback_id=id_, text=text)
        self.end(f"ingest-{id_}", "succeeded", 0, value.model_dump(mode="json"))
        value = feedback.sentiment(value)
        self.end(f"sentiment-{id_}", "succeeded", 10, value.model_dump(mode="json"))
        try:
            value = feedback.topics(value)
        except Permanent as failed:
            error = {"kind": "permanent", "type": "Permanent", "message": str(failed), "origin": "executor"}
            self.end(f"topics-{id_}", "failed", 20, error)
            self.records[f"action-{id_}"] = "U|1|0|0|0||0"
            logged = {**error, "event": "error_event", "feedback_id": id_, "attempt": 1}
            self.end(f"error-{id_}", "succeeded", 30, logged)
            return
        self.end(f"topics-{id_}", "succeeded", 20, value.model_dump(mode="json"))
        self.end(f"action-{id_}", "succeeded", 30, feedback.action(value).model_dump(mode="json"))
        self.records[f"error-{id_}"] = "K|1|0|0|0||0"

    def end(self, key: str, state: str, at: int, value: Any, tries: int = 1) -> None:
        """A node that ran `tries` times and ended."""
        timeline = ";".join([f"{at},1,1,5,{state},w"] * tries)
        self.records[key] = f"{STATES[state]}|1|{tries}|0|0|{timeline}|{'i' if state == 'succeeded' else ''}"
        self.found[key] = value

    # what the judge asks of the store

    def load(self, _run: RunId) -> Run:
        index = self.compiled.index
        records = [(index(key), record.encode()) for key, record in self.records.items()]
        return Run.load(ID, self.compiled.header, self.compiled.pages(), records, created_at_ms=1_000)

    def summary(self, _run: str) -> Summary:
        return Summary(ID, "x", self.state, "", self.compiled.nodes, 1_000, 2_000, None, {}, {}, None, None, "")

    def values(self, _run: RunId, nodes: Any) -> dict[int, bytes]:
        keys = {node: self.compiled.keys[node] for node in nodes}
        return {node: json.dumps(self.found[key]).encode() for node, key in keys.items() if key in self.found}


def judged(recorded: Recorded) -> Verdict:
    """The verdict about it."""
    return judge(recorded, ID, example.messages(LIMIT), example.expected(), example.STEPS)  # type: ignore[arg-type]


def test_a_right_run_is_right() -> None:
    """Six messages, one of them stopped, its error handled."""
    verdict = judged(Recorded())
    assert verdict.problems == []
    assert (len(verdict.items), verdict.stopped, verdict.handled) == (LIMIT, 1, 1)
    assert verdict.items[0].team == "Product Development Team"
    assert verdict.items[4].stopped == "stopped: permanent"


def _set(key: str, **changed: Any) -> Callable[[Recorded], None]:
    return lambda it: it.found[key].update(changed)


def _record(key: str, record: str) -> Callable[[Recorded], None]:
    return lambda it: it.records.update({key: record})


SPOILED: dict[str, Callable[[Recorded], None]] = {
    "the run failed": lambda it: setattr(it, "state", RunState.FAILED),
    "another sentiment": _set("sentiment-FB001", sentiment="neutral"),
    "other topics": _set("topics-FB002", topics=["technical_issue"]),
    "another team": _set("action-FB003", team="Product Ideas Team"),
    "a message that never ended": _record("action-FB004", "P|1|0|0|0||"),
    "an error handler for nothing": lambda it: it.end("error-FB001", "succeeded", 40, {"feedback_id": "FB001"}),
    "an action after a crash": lambda it: it.end("action-FB005", "succeeded", 40, {"team": "General Support"}),
    "an action that was started after a crash": _record("action-FB005", "U|1|1|1|0|30,1,1,5,failed,w|0"),
    "no error handler after a crash": _record("error-FB005", "K|1|0|0|0||0"),
    "an error handler that ran twice": lambda it: it.end("error-FB005", "succeeded", 30, it.found["error-FB005"], 2),
    "an error handler without the message": _set("error-FB005", message=""),
    "an error handler for another message": _set("error-FB005", feedback_id="FB001"),
    "an error handler told another kind": _set("error-FB005", kind="transient"),
    "a crash that was tried again": lambda it: it.end("topics-FB005", "failed", 20, it.found["topics-FB005"], 3),
    "a failure of another kind": _set("topics-FB005", kind="transient"),
    "steps out of order": lambda it: it.end("sentiment-FB001", "succeeded", 0, it.found["sentiment-FB001"]),
    "a missing event": _set("topics-FB001", event="something"),
    "a wrong tally": _set("tally", stopped=0),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_wrong_run_is_found_out(how: str) -> None:
    """One thing is wrong, and the verdict says so."""
    recorded = Recorded()
    SPOILED[how](recorded)
    assert judged(recorded).problems
