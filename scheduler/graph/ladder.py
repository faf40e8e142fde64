"""Steps of a retry policy: the same again, with changed inputs, with another executor, a question to a person.

    Retry(steps=[again(3, "1s..60s"), changed(inputs={"temperature": 0.0}), other("llm.big", attempts=2)])

Pure. What a step means when an attempt fails stands in core/ladder.py; here it is written, read and checked. A step
builds on the one before: after `other`, the same again is that executor again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ..core.ladder import AGAIN, CHANGED, ESCALATE, OTHER
from ..errors import ERROR_KINDS, InvalidValue, did_you_mean
from .capability import executor_of
from .limits import (
    MAX_ATTEMPTS,
    MAX_FACTOR,
    MAX_SECONDS,
    check_limits,
    count_of,
    kind_of,
    name_of,
    number_of,
    seconds_of,
)
from .values import kwargs_of

Duration = int | float | str | timedelta
MAX_STEPS = 16
MAX_QUESTION = 2_000
JITTERS = ("full", "none")

_AGAIN_KINDS = frozenset(kind for kind, it in ERROR_KINDS.items() if it.again) - {"lost"}
MAY_ANSWER: dict[str, frozenset[str]] = {
    AGAIN: _AGAIN_KINDS,
    CHANGED: frozenset(ERROR_KINDS) - {"cancelled"},
    OTHER: frozenset(ERROR_KINDS) - {"cancelled"},
    ESCALATE: frozenset(ERROR_KINDS) - {"cancelled"},
}
"""Step -> kinds of error that it may answer: the same again mends no final error, and has had its losses."""
DEFAULT_ON: dict[str, frozenset[str]] = {
    AGAIN: _AGAIN_KINDS,
    CHANGED: _AGAIN_KINDS | {"invalid_input", "contract", "permanent"},
    OTHER: frozenset(ERROR_KINDS) - {"cancelled", "safety", "budget"},
    ESCALATE: frozenset(ERROR_KINDS) - {"cancelled"},
}
"""Step -> kinds of error that it answers when it does not say: a safety rule is not got round by another executor."""
DEFAULT_ATTEMPTS = {AGAIN: 3, CHANGED: 1, OTHER: 1, ESCALATE: 1}
_WAITS = ("base_seconds", "factor", "cap_seconds", "jitter")
STEP_FIELDS: dict[str, tuple[str, ...]] = {
    AGAIN: ("step", "attempts", "on", *_WAITS),
    CHANGED: ("step", "inputs", "attempts", "on", *_WAITS),
    OTHER: (
        "step",
        "executor",
        "attempts",
        "on",
        *_WAITS,
        "inputs",
        "queue_class",
        "timeout_seconds",
        "soft_timeout_seconds",
    ),
    ESCALATE: ("step", "question", "to", "on"),
}
"""Step -> its fields in a document."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a `Retry`; `again`, `changed`, `other` and `escalate` make it.

    Attributes:
        inputs_text: canonical JSON of the inputs that it brings, once it belongs to a node; "" for none.
        given: these inputs as they were handed over.
    """

    step: str
    attempts: int
    on: tuple[str, ...]
    base_seconds: float = 1.0
    cap_seconds: float = 60.0
    factor: float = 2.0
    jitter: str = "full"
    executor: str | None = None
    queue_class: str | None = None
    timeout_seconds: float | None = None
    soft_timeout_seconds: float | None = None
    question: str = ""
    to: tuple[str, ...] = ()
    inputs_text: str = ""
    given: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def document(self) -> dict[str, Any]:
        """What of it is not the default, by the names of the document."""
        default = Step(self.step, DEFAULT_ATTEMPTS[self.step], tuple(sorted(DEFAULT_ON[self.step])))
        names = [it for it in STEP_FIELDS[self.step] if it not in ("step", "inputs")]
        found = {name: value for name in names if (value := getattr(self, name)) != getattr(default, name)}
        if self.inputs_text:
            found["inputs"] = json.loads(self.inputs_text)
        return {"step": self.step, **{k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}}

    def record(self, timeout_ms: int | None, soft_timeout_ms: int | None) -> dict[str, Any]:
        """The step of the compiled graph, as core/ladder.py reads it; the limits are those of the node."""
        found: dict[str, Any] = {"step": self.step, "on": list(self.on)}
        if self.step == ESCALATE:
            return found | {"question": self.question, "to": list(self.to)}
        found |= {
            "attempts": self.attempts,
            "base_ms": round(self.base_seconds * 1000),
            "factor": self.factor,
            "cap_ms": round(self.cap_seconds * 1000),
            "jitter": self.jitter == "full",
        }
        if self.step == OTHER:
            hard, soft = (_ms(it) for it in (self.timeout_seconds, self.soft_timeout_seconds))
            found |= {"executor": self.executor, "queue_class": self.queue_class}
            found |= {"timeout_ms": hard or timeout_ms, "soft_timeout_ms": soft or (None if hard else soft_timeout_ms)}
        return found


def again(
    attempts: int = 3,
    backoff: str | None = None,
    *,
    base_seconds: Duration | None = None,
    cap_seconds: Duration | None = None,
    factor: float = 2.0,
    jitter: str = "full",
    on: Iterable[str] | None = None,
) -> Step:
    """The same again.

    Args:
        attempts: tries of this step; of the first step of a policy the very first try is one.
        backoff, base_seconds, cap_seconds, factor: of the waits, as for `Retry`.
        jitter: "full": a wait is anything from nothing to its bound; "none": it is the bound.
        on: kinds of error that this step answers; default: those that another try may mend.
    """
    return step_of(AGAIN, attempts, on, backoff, base_seconds, cap_seconds, factor, jitter)


def changed(
    inputs: Mapping[str, Any],
    attempts: int = 1,
    backoff: str | None = None,
    *,
    base_seconds: Duration | None = None,
    cap_seconds: Duration | None = None,
    factor: float = 2.0,
    jitter: str = "full",
    on: Iterable[str] | None = None,
) -> Step:
    """With other inputs, which take the place of those of the same names. The first try of the step begins at once.

    Args:
        inputs: name -> value or handle, as for a node; its others stay.
        attempts, backoff, base_seconds, cap_seconds, factor, jitter: as for `again`.
        on: default: also invalid_input, contract and permanent.
    """
    it = step_of(CHANGED, attempts, on, backoff, base_seconds, cap_seconds, factor, jitter)
    return replace(it, given=_given(inputs, "changed"))


def other(
    executor: Any,
    attempts: int = 1,
    backoff: str | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    queue_class: str | None = None,
    timeout: Duration | None = None,
    soft_timeout: Duration | None = None,
    factor: float = 2.0,
    jitter: str = "full",
    on: Iterable[str] | None = None,
) -> Step:
    """With another executor, which gives the output in place of the node's own. Its first try begins at once.

    Args:
        executor: its name, a Celery task, or what `@executor` made.
        inputs: all that it gets, in place of the node's inputs; default: the same as those.
        queue_class: where it runs; default: the executor's own, whatever the node says.
        timeout, soft_timeout: per attempt; default: the node's.
        attempts, backoff, factor, jitter: as for `again`.
        on: default: all kinds but safety, budget and cancelled.
    """
    name = executor if isinstance(executor, str) else getattr(executor, "name", None)
    if not isinstance(name, str) or isinstance(executor, Mapping):
        raise InvalidValue("other", executor, "is not an executor", "Hand over a name, a Celery task, or an executor.")
    it = step_of(OTHER, attempts, on, backoff, None, None, factor, jitter)
    hard = None if timeout is None else seconds_of(timeout, "other.timeout")
    soft = None if soft_timeout is None else seconds_of(soft_timeout, "other.soft_timeout")
    check_limits(hard, soft, "other.soft_timeout")
    return replace(
        it,
        executor=executor_of(name, "other.executor"),
        queue_class=None if queue_class is None else name_of(queue_class, "other.queue_class"),
        timeout_seconds=hard,
        soft_timeout_seconds=soft,
        given=None if inputs is None else _given(inputs, "other"),
    )


def escalate(question: str, to: Iterable[str] = (), *, on: Iterable[str] | None = None) -> Step:
    """A person is asked what to do; always the last step.

    Args:
        question: in your words, up to 2,000 characters.
        to: whom to ask, such as names of people or groups.
        on: default: all kinds but cancelled.
    """
    return Step(
        ESCALATE, 1, kinds_of(on, ESCALATE, "escalate.on"), question=question_of(question, "escalate.question"),
        to=names_of(to, "escalate.to"),
    )  # fmt: skip


def step_of(
    step: str,
    attempts: object,
    on: Iterable[str] | None,
    backoff: str | None,
    base_seconds: Duration | None,
    cap_seconds: Duration | None,
    factor: float,
    jitter: object,
    at: str = "",
) -> Step:
    """A step with the fields that all have, checked."""
    at = at or step
    base, cap = waits_of(backoff, base_seconds, cap_seconds, at)
    if not isinstance(jitter, str) or jitter not in JITTERS:
        raise InvalidValue(f"{at}.jitter", jitter, "is not known", f"Use one of {', '.join(JITTERS)}.")
    return Step(
        step,
        count_of(attempts, f"{at}.attempts", 1, MAX_ATTEMPTS),
        kinds_of(on, step, f"{at}.on"),
        base,
        cap,
        number_of(factor, f"{at}.factor", 1.0, MAX_FACTOR),
        jitter,
    )


def waits_of(
    backoff: object, base_seconds: Duration | None, cap_seconds: Duration | None, at: str
) -> tuple[float, float]:
    """(base, cap) of waits, in seconds, from one text or from two durations; 1 s and 60 s when nothing is said.

    Raises:
        InvalidValue: both are given, one is no duration, or the cap is below the base.
    """
    if backoff is not None:
        if base_seconds is not None or cap_seconds is not None:
            raise InvalidValue(
                f"{at}.backoff",
                backoff,
                "stands beside base_seconds or cap_seconds",
                'Give either backoff="1s..60s" or base_seconds and cap_seconds.',
            )
        base_seconds, cap_seconds = _bounds(backoff, f"{at}.backoff")
    base = seconds_of(1.0 if base_seconds is None else base_seconds, f"{at}.base_seconds", 0)
    default_cap = min(max(60.0, base), MAX_SECONDS)
    cap = seconds_of(default_cap if cap_seconds is None else cap_seconds, f"{at}.cap_seconds", 0)
    if cap < base:
        raise InvalidValue(
            f"{at}.cap_seconds", cap, f"is less than base_seconds ({base:g})", "Raise it, or lower base_seconds."
        )
    return base, cap


def _bounds(backoff: object, at: str) -> tuple[float, float]:
    parts = backoff.split("..") if isinstance(backoff, str) else []
    if len(parts) != 2:
        raise InvalidValue(
            at, backoff, "is not a pair of durations", 'Write the first and the longest wait: "1s..60s".'
        )
    return seconds_of(parts[0].strip(), at, 0), seconds_of(parts[1].strip(), at, 0)


def kinds_of(kinds: object, step: str, at: str) -> tuple[str, ...]:
    """Kinds of error, sorted, each once; None means those that the step answers by default.

    Args:
        step: which answers them; "" for those that no step may answer.

    Raises:
        InvalidValue: no list of kinds, an unknown one, or one that such a step cannot mend.
    """
    if kinds is None:
        return tuple(sorted(DEFAULT_ON[step]))
    if not isinstance(kinds, list | tuple | set | frozenset):
        raise InvalidValue(at, kinds, f"is not a list but {kind_of(kinds)}", 'Write ["timeout", ...].')
    may = MAY_ANSWER.get(step, frozenset(ERROR_KINDS))
    for kind in kinds:
        if not isinstance(kind, str) or kind not in ERROR_KINDS:
            hint = did_you_mean(kind, ERROR_KINDS) if isinstance(kind, str) else ""
            raise InvalidValue(at, kind, "is not an error kind", f"Use some of {', '.join(sorted(may))}.{hint}")
        if kind not in may:
            raise InvalidValue(
                at, kind, f"is what the step {step!r} cannot mend", f"Use some of {', '.join(sorted(may))}."
            )
    if not kinds and step:
        raise InvalidValue(at, list(kinds), "names no kind", "Leave it out, or name some.")
    return tuple(sorted(set(kinds)))


def _given(inputs: object, at: str) -> Mapping[str, Any]:
    found = kwargs_of(inputs, f"{at}.inputs")
    if not found and at == "changed":
        raise InvalidValue("changed.inputs", {}, "changes nothing", "Name an input, or use again().")
    return dict(found)


def question_of(question: object, at: str) -> str:
    """The question of a step that asks a person, checked."""
    if not isinstance(question, str) or not 1 <= len(question) <= MAX_QUESTION or not question.strip():
        raise InvalidValue(at, question, "is no question", f"Write a text of 1 to {MAX_QUESTION} characters.")
    return question


def names_of(names: object, at: str) -> tuple[str, ...]:
    """Whom a step asks, checked."""
    if isinstance(names, str) or not isinstance(names, Iterable) or isinstance(names, Mapping):
        raise InvalidValue(at, names, f"is not a list but {kind_of(names)}", 'Write ["name", ...].')
    return tuple(name_of(it, f"{at}[{i}]") for i, it in enumerate(names))


def steps_of(steps: object, at: str) -> tuple[Step, ...]:
    """The steps of a policy, checked; the first try is always the node's own, so a first step of another kind comes
    after it.

    Raises:
        InvalidValue: none, too many, something that is no step, or a question that is not last.
    """
    if isinstance(steps, Step | str) or not isinstance(steps, Iterable) or isinstance(steps, Mapping):
        raise InvalidValue(at, steps, f"is not a list but {kind_of(steps)}", "Write [again(3), other(...)].")
    found = tuple(steps)
    if not found:
        raise InvalidValue(at, [], "holds no step", "Name one, or leave it out.")
    for i, step in enumerate(found):
        if not isinstance(step, Step):
            raise InvalidValue(f"{at}[{i}]", step, "is not a step", "Use again, changed, other or escalate.")
        if step.step == ESCALATE and i < len(found) - 1:
            raise InvalidValue(f"{at}[{i}]", step.question, "is not the last step", "Ask a person last.")
    if found[0].step != AGAIN:
        found = (again(1), *found)
    if len(found) > MAX_STEPS:
        raise InvalidValue(at, f"{len(found)} steps", f"are more than {MAX_STEPS}", "Join some.")
    attempts = sum(step.attempts for step in found if step.step != ESCALATE)
    if attempts > MAX_ATTEMPTS:
        raise InvalidValue(at, f"{attempts} attempts", f"are more than {MAX_ATTEMPTS}", "Lower some.")
    return found


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
