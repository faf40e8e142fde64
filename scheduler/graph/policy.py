"""How a node is run, apart from its inputs: retry, time limits, class, trigger rule.

Pure. Many nodes share one policy, so a graph keeps each distinct one once, with the JSON that it adds to the
canonical document (defaults left out) and the profile that the compiled graph stores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..core.ladder import ESCALATE
from ..core.rules import RULE_NAMES, parse_rule
from ..errors import InvalidValue, did_you_mean
from ..wire import is_found_later
from .inputs import Inputs
from .ladder import Step, kinds_of, steps_of, waits_of
from .limits import (
    MAX_ATTEMPTS,
    MAX_FACTOR,
    MAX_LOSSES,
    At,
    Duration,
    count_of,
    kind_of,
    number_of,
    only_fields,
    place,
    plain_seconds,
)
from .rungs import bound, step_from_document
from .timing import NO_TIMING, Timing

DEFAULT_RULE = "all_success"


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often a node is tried, and how long it waits in between: exponential backoff with full jitter.

    Or what is tried, step by step: `steps`, a ladder that a node goes down (ladder.py).

    Args:
        max_attempts: tries in all, the first one included, 1 to 1000; default 3, or what the steps have together.
        backoff: "1s..60s", the bounds of the first wait and of every wait; or give the two that follow.
        base_seconds: upper bound of the first wait; 0 tries again at once.
        cap_seconds: upper bound of every wait.
        factor: growth of the bound from one wait to the next, 1 to 100.
        max_losses: tries that may be lost to infrastructure (a killed worker), which count apart, 0 to 1000.
        steps: again(...), changed(...), other(...), escalate(...), in their order; they have waits of their own.
        never: kinds of error after which nothing is tried, whatever the steps answer.

    >>> Retry(4, "500ms..30s")
    Retry(max_attempts=4, base_seconds=0.5, cap_seconds=30.0, factor=2.0, max_losses=5, steps=(), never=())
    """

    max_attempts: int
    base_seconds: float
    cap_seconds: float
    factor: float
    max_losses: int
    steps: tuple[Step, ...]
    never: tuple[str, ...]

    def __init__(
        self,
        max_attempts: int | None = None,
        backoff: str | None = None,
        *,
        base_seconds: Duration | None = None,
        cap_seconds: Duration | None = None,
        factor: float = 2.0,
        max_losses: int = 5,
        steps: Iterable[Step] = (),
        never: Iterable[str] = (),
        at: str = "retry",
    ) -> None:
        set_ = object.__setattr__
        found = () if steps == () else steps_of(steps, f"{at}.steps")
        if found and (backoff, base_seconds, cap_seconds, factor) != (None, None, None, 2.0):
            raise InvalidValue(f"{at}.steps", list(found), "stand beside a wait", "Give each step its own backoff.")
        together = sum(step.attempts for step in found if step.step != ESCALATE)
        most = (together or 3) if max_attempts is None else max_attempts
        set_(self, "max_attempts", count_of(most, f"{at}.max_attempts", 1, together or MAX_ATTEMPTS))
        base, cap = waits_of(backoff, base_seconds, cap_seconds, at)
        set_(self, "base_seconds", base)
        set_(self, "cap_seconds", cap)
        set_(self, "factor", number_of(factor, f"{at}.factor", 1.0, MAX_FACTOR))
        set_(self, "max_losses", count_of(max_losses, f"{at}.max_losses", 0, MAX_LOSSES))
        set_(self, "steps", found)
        set_(self, "never", kinds_of(never, "", f"{at}.never"))

    @classmethod
    def from_document(cls, value: object, at: str) -> Retry:
        """The retry policy that a graph document writes as an object.

        Durations are numbers there, as everywhere in documents.
        """
        if not isinstance(value, Mapping):
            raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", 'Write {"max_attempts": 3, ...}.')
        fields = only_fields(value, RETRY_FIELDS, at)
        for name in ("base_seconds", "cap_seconds"):
            if name in fields:
                fields[name] = plain_seconds(fields[name], f"{at}.{name}", 0)
        for name in ("steps", "never"):
            if name in fields and not isinstance(fields[name], list | tuple):
                found = fields[name]
                raise InvalidValue(f"{at}.{name}", found, f"is not a list but {kind_of(found)}", "Write [...].")
        if "steps" in fields:
            for name in ("base_seconds", "factor", "cap_seconds"):
                if name in fields:
                    raise InvalidValue(f"{at}.{name}", fields[name], "stands beside steps", "Give it to a step.")
            steps = [step_from_document(it, f"{at}.steps[{i}]") for i, it in enumerate(fields["steps"])]
            fields["steps"] = steps_of(steps, f"{at}.steps")
        else:
            fields.setdefault("cap_seconds", 60.0)
        if "max_attempts" in fields and fields["max_attempts"] is None:
            raise InvalidValue(f"{at}.max_attempts", None, "is not a number but null", "Leave it out.")
        return cls(**fields, at=at)

    def document(self) -> dict[str, Any]:
        """What of it is not the default, by the names of the document."""
        default: Any = Retry(steps=self.steps) if self.steps else DEFAULT_RETRY
        simple = {name: value for name in _PLAIN_FIELDS if (value := getattr(self, name)) != getattr(default, name)}
        if self.steps:
            simple["steps"] = [step.document() for step in self.steps]
        return simple | ({"never": list(self.never)} if self.never else {})

    def bound(
        self, key: str, graph: object | None, args: Any, kwargs: Mapping[str, Any]
    ) -> tuple[Retry, tuple[Inputs | None, ...]]:
        """The policy as that of one node, and the inputs of its steps; see ladder.bound."""
        steps, inputs = bound(self.steps, key, graph, args, kwargs)
        return self.with_steps(steps), inputs

    def with_steps(self, steps: tuple[Step, ...], more: int = 0) -> Retry:
        """The same with other steps, which have `more` attempts together."""
        cap = self.max_attempts + more if self.max_attempts < sum(it.attempts for it in self.steps) else None
        return Retry(cap, max_losses=self.max_losses, steps=steps, never=self.never)


_PLAIN_FIELDS = ("max_attempts", "base_seconds", "factor", "cap_seconds", "max_losses")
RETRY_FIELDS = (*_PLAIN_FIELDS, "steps", "never")
DEFAULT_RETRY = Retry()


def rule_of(value: object, at: At) -> str:
    """A trigger rule's name, checked."""
    if not isinstance(value, str):
        raise InvalidValue(place(at), value, f"is not text but {kind_of(value)}", f"Write {DEFAULT_RULE!r} or another.")
    try:
        parse_rule(value)
    except ValueError:
        raise InvalidValue(
            place(at),
            value,
            "is not a trigger rule",
            f"Write one of {', '.join(RULE_NAMES)}, or quorum(n) with n from 1.{did_you_mean(value, RULE_NAMES)}",
        ) from None
    return str.__str__(value)


@dataclass(frozen=True)
class Policy:
    """One distinct way to run nodes; its fields are checked already."""

    executor: str
    rule: str
    retry: Retry
    timeout_seconds: float | None
    soft_timeout_seconds: float | None
    queue_class: str | None
    timing: Timing = NO_TIMING
    executor_version: str | None = None

    @cached_property
    def executor_json(self) -> str:
        """The field "executor" of the canonical document, and its version if one is asked for."""
        version = "" if self.executor_version is None else f',"executor_version":"{self.executor_version}"'
        return '"executor":' + json.dumps(self.executor, ensure_ascii=False) + version

    @cached_property
    def tail_json(self) -> str:
        """The fields of the canonical document that stand after "labels", each with a comma before it."""
        fields = {
            "queue_class": self.queue_class,
            "retry": self.retry.document() or None,
            "soft_timeout_seconds": self.soft_timeout_seconds,
            "timeout_seconds": self.timeout_seconds,
            "timing": self.timing.document() or None,
            "trigger_rule": None if self.rule == DEFAULT_RULE else self.rule,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps(given, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return "," + text[1:-1] if given else ""

    def profile(self) -> dict[str, Any]:
        """The profile of the compiled graph: the same in milliseconds."""
        hard, soft = _ms(self.timeout_seconds), _ms(self.soft_timeout_seconds)
        found: dict[str, Any] = {
            "executor": self.executor,
            "queue_class": self.queue_class,
            "rule": self.rule,
            "max_attempts": self.retry.max_attempts,
            "base_ms": round(self.retry.base_seconds * 1000),
            "factor": self.retry.factor,
            "cap_ms": round(self.retry.cap_seconds * 1000),
            "max_losses": self.retry.max_losses,
            "timeout_ms": hard,
            "soft_timeout_ms": soft,
            **self.timing.limits,
        }
        if self.executor_version is not None:
            found["executor_version"] = self.executor_version
        if self.retry.steps:
            found["steps"] = [step.record(hard, soft) for step in self.retry.steps]
        if self.retry.never:
            found["never"] = list(self.retry.never)
        return found

    @property
    def is_laddered(self) -> bool:
        """Whether readers of graphs of format 2 would misread it."""
        asks = is_found_later(self.executor) or self.executor_version is not None
        return bool(self.retry.steps or self.retry.never or asks)


def choice_policy(rule: str) -> Policy:
    """The policy of a choice: it is no work, so nothing but its trigger rule says anything."""
    return Policy("", rule, DEFAULT_RETRY, None, None, None)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
