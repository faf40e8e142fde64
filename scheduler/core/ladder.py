"""The retry ladder: after a failed attempt, which rung comes next, and after what wait?

Pure. A policy is a list of steps: the same again, with changed inputs, with another executor, a question to a person.
A node goes down the list and never back: it stays on its step while that answers the error's kind, has attempts left
and the same once more may mend it; else it goes to the first step below that answers; when there is none it has failed
for good. So where a node stands is two numbers, the step and how many attempts of its epoch had failed when it got
there. Its record keeps both (run.py), and a new owner goes on at the same rung. The simple policy is one step: the
same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from .retry import FINAL_KINDS, asked_ms, backoff_ms, wait_ms

if TYPE_CHECKING:
    from .run import Profile

AGAIN, CHANGED, OTHER, ESCALATE = "again", "changed", "other", "escalate"
_NOT_HERE = FINAL_KINDS | {"lost"}
"""Kinds that lead down and never to the same once more: it mends no final error, and has had the losses it may have."""
GROUND = (0, 0)
"""Where every node begins: on the first step, nothing has failed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ladder.

    Attributes:
        step: again, changed (other inputs), other (another executor), or escalate (a person is asked).
        on: the kinds of error that it answers: that lead to it, and keep a node on it if the same again may mend them.
        attempts: how many it has; a person is asked once.
        base_ms, factor, cap_ms: of the wait between them, and before the first of `again`; the others begin at once.
        jitter: whether a wait is anything up to its bound, or always that.
        executor, queue_class, timeout_ms, soft_timeout_ms: of `other`.
        question, to: of `escalate`.
    """

    step: str
    on: frozenset[str]
    attempts: int = 1
    base_ms: int = 1000
    factor: float = 2.0
    cap_ms: int = 60_000
    jitter: bool = True
    executor: str = ""
    queue_class: str | None = None
    timeout_ms: int | None = None
    soft_timeout_ms: int | None = None
    question: str = ""
    to: tuple[str, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Step:
        """Read a step of a compiled graph; fields of later versions are ignored."""
        known = {it.name: record[it.name] for it in fields(cls) if it.name in record}
        return cls(**known | {"on": frozenset(record["on"]), "to": tuple(record.get("to", ()))})

    @property
    def escalates(self) -> bool:
        """Whether a person is asked, and no attempt made."""
        return self.step == ESCALATE


class Rung(NamedTuple):
    """Where a node goes on.

    Attributes:
        at: (step, attempts of this epoch that had failed when the node came to it); see Run.rungs.
        wait_ms: before its next attempt.
    """

    at: tuple[int, int]
    wait_ms: int


def next_rung(
    profile: Profile,
    at: tuple[int, int],
    failures: int,
    kind: str,
    *,
    chance: float,
    retry_after_ms: int | None = None,
    elsewhere: bool = False,
) -> Rung | None:
    """Where a node goes on after a failed attempt; None when it has failed for good.

    Args:
        profile: of the node, as declared.
        at: where the attempt stood.
        failures: attempts of this epoch that have failed, this one included.
        kind: of its error.
        chance: a random number, 0 <= chance < 1.
        retry_after_ms: a wait that the executor asked for; kept while the executor stays the same.
        elsewhere: only another executor may mend it.
    """
    if kind in profile.never:
        return None
    if not profile.steps:
        if elsewhere:
            return None
        wait = wait_ms(
            kind,
            failures,
            max_attempts=profile.max_attempts,
            base_ms=profile.base_ms,
            factor=profile.factor,
            cap_ms=profile.cap_ms,
            chance=chance,
            retry_after_ms=retry_after_ms,
        )
        return None if wait is None else Rung(at, wait)
    here, since = at
    for number in range(here, len(profile.steps)):
        step = profile.steps[number]
        tried = failures - since if number == here else 0
        full = tried >= step.attempts or (failures >= profile.max_attempts and not step.escalates)
        if full or kind not in step.on or (number == here and kind in _NOT_HERE):
            continue
        wait = _wait_ms(step, tried, not number, chance)
        same = profile.ways[number].executor == profile.ways[here].executor
        if elsewhere and same and not step.escalates:
            continue
        if retry_after_ms is not None and same and not step.escalates:
            wait = asked_ms(retry_after_ms)
        return Rung(at if number == here else (number, failures), wait)
    return None


def _wait_ms(step: Step, tried: int, first: bool, chance: float) -> int:
    """Before an attempt of a step of which `tried` have failed: of the first step, or of a later one, where the same
    again waits also before its first attempt.
    """
    waits = tried + (step.step == AGAIN and not first)
    if not waits:
        return 0
    return backoff_ms(waits, step.base_ms, step.factor, step.cap_ms, chance if step.jitter else 1.0)


def rung_words(profile: Profile, at: tuple[int, int]) -> str:
    """A rung in the words of the log.

    >>> from .rules import parse_rule
    >>> from .run import Profile
    >>> steps = [{"step": "again", "on": ["timeout"]}, {"step": "other", "on": ["timeout"], "executor": "b"}]
    >>> profile = Profile.from_record({"executor": "a", "queue_class": None, "steps": steps})
    >>> rung_words(profile, (0, 0)), rung_words(profile, (1, 3))
    ('rung 1 of 2, the same again', 'rung 2 of 2, executor b, fallback_from a')
    """
    number = at[0]
    step, executor = profile.steps[number], profile.ways[number].executor
    what = {
        AGAIN: "the same again",
        CHANGED: "with changed inputs",
        OTHER: f"executor {executor}",
        ESCALATE: f"a person is asked: {step.question}",
    }[step.step]
    fallback = f", fallback_from {profile.executor}" if executor != profile.executor and not step.escalates else ""
    if fallback and step.step != OTHER:
        what += f", executor {executor}"
    return f"rung {number + 1} of {len(profile.steps)}, {what}{fallback}"
