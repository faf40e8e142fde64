"""What people and programs outside do in a simulation: signals and answers, checked against the graph first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.run import Run, work_of
from ..core.waiting import may_ask
from ..errors import InvalidValue, UnknownNode, did_you_mean, quoted, shown
from ..graph.limits import seconds_of
from ..payloads import check_payload
from .outcomes import Duration


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal to the run.

    Attributes:
        at: when it arrives, after the run's start, whoever waits for it then; None: as soon as a node waits for it.
        key: idempotency key; by: who sends it.
    """

    name: str
    payload: Any = None
    at: Duration | None = None
    key: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to an approval, or to a retry ladder that asks: "retry" or "fail".

    Attributes:
        choice: one of those that the approval has.  answer: what its form asks for, a JSON value.
        by: who answers; None: the first who may.
        after: how long after it was asked; None: at once.
    """

    choice: str
    answer: Any = None
    by: str | None = None
    comment: str = ""
    after: Duration | None = None

    @property
    def after_ms(self) -> int:
        """The wait in milliseconds."""
        return 0 if self.after is None else round(seconds_of(self.after, "Answer(after)", 0) * 1000)


class Question(NamedTuple):
    """A node asks; `number` tells it from what the same node asks later, or at the same instant again."""

    node: int
    epoch: int
    number: int


@dataclass(slots=True)
class Script:
    """All that `simulate` was given besides the graph; see there."""

    outcomes: dict[str, Any]
    default: Any
    executors: dict[str, Any]
    signals: list[Any]
    answers: dict[str, Any]
    deadline: Duration | None
    secrets: dict[str, str]
    contracts: dict[str, Mapping[str, Any]]
    policy: object = None


def check_outcomes(run: Run, outcomes: Mapping[str, Any]) -> None:
    """Whether outcomes are scripted for nodes that are work.

    Raises:
        UnknownNode: the graph has no such node.
        InvalidValue: it is a choice, a race or a wait, which the scheduler decides itself.
    """
    index = {key: node for node, key in enumerate(run.keys)}
    for key in outcomes:
        if key not in index:
            raise UnknownNode(str(key), "outcomes", run.keys)
        if not run.profiles[run.profile[index[key]]].executor:
            remedy = "Script what it rests on: outcomes of other nodes, signals= or answers=."
            raise InvalidValue(f"outcomes[{quoted(key)}]", work_of(run, index[key]), "is no work", remedy)


def signals_of(run: Run, signals: Iterable[Signal | Sequence[Any]]) -> list[Signal]:
    """Signals as they were written: Signal(...), or (name, payload).

    Raises:
        InvalidValue: no node of the graph waits for such a signal, or its payload does not fit the schema.
    """
    waits = {} if run.guards is None else run.guards.waits
    schemas = {it.name: it.schema for it in waits.values() if it.kind == "signal"}
    found = []
    for number, one in enumerate(signals):
        at = f"signals[{number}]"
        it = one if isinstance(one, Signal) else _signal(one, at)
        if it.name not in schemas:
            hint = did_you_mean(str(it.name), schemas)
            names = ", ".join(sorted(schemas)) or "none"
            raise InvalidValue(at, it.name, "is a signal that no node waits for", f"The graph has {names}.{hint}")
        check_payload(schemas[it.name], it.payload, f"{at}.payload")
        found.append(it)
    return found


def _signal(one: object, at: str) -> Signal:
    if isinstance(one, str) or not isinstance(one, Sequence) or len(one) not in (1, 2) or not isinstance(one[0], str):
        raise InvalidValue(at, one, "is no signal", 'Write ("name", payload) or Signal("name", payload, at="2h").')
    return Signal(*one)


def answers_of(run: Run, answers: Mapping[str, Any]) -> dict[int, list[Answer]]:
    """Answers by node, one for each time that it asks: a choice, an Answer, or a list of them.

    Raises:
        UnknownNode: the graph has no such node.
        InvalidValue: the node asks nobody, or that is no answer.
    """
    index = {key: node for node, key in enumerate(run.keys)}
    found = {}
    for key, given in answers.items():
        at = f"answers[{quoted(str(key))}]"
        if key not in index:
            raise UnknownNode(str(key), "answers", run.keys)
        if not may_ask(run, index[key]):
            raise InvalidValue(at, key, "asks nobody anything", "Answer approvals, and ladders that end in escalate().")
        ones = given if isinstance(given, list) else [given]
        for one in ones:
            if not isinstance(one, str | Answer):
                raise InvalidValue(at, one, "is no answer", 'Write "approve" or Answer("approve", by="ann").')
        found[index[key]] = [one if isinstance(one, Answer) else Answer(one) for one in ones]
    return found


def unused_words(outcomes: Iterable[str], signals: Iterable[Signal], answers: Iterable[str]) -> tuple[str, ...]:
    """What of a script was not needed, in words."""
    return (
        *(f"outcome of {shown(key)}" for key in outcomes),
        *(f"signal {shown(it.name)}" for it in signals),
        *(f"answer to {shown(key)}" for key in answers),
    )
