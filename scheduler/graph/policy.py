"""How a node is run, apart from its inputs: retry, time limits, class, trigger rule.

Pure. Many nodes share one policy, so a graph keeps each distinct one once, with the JSON that it adds to the
canonical document (defaults left out) and the profile that the compiled graph stores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..core.rules import RULE_NAMES, parse_rule
from ..errors import InvalidValue, did_you_mean
from .limits import (
    MAX_ATTEMPTS,
    MAX_FACTOR,
    MAX_LOSSES,
    MAX_SECONDS,
    At,
    Duration,
    count_of,
    kind_of,
    number_of,
    only_fields,
    place,
    plain_seconds,
    seconds_of,
)
from .timing import NO_TIMING, Timing

DEFAULT_RULE = "all_success"


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often a node is tried, and how long it waits in between: exponential backoff with full jitter.

    Args:
        max_attempts: tries in all, the first one included, 1 to 1000.
        backoff: "1s..60s", the bounds of the first wait and of every wait; or give the two that follow.
        base_seconds: upper bound of the first wait; 0 tries again at once.
        cap_seconds: upper bound of every wait.
        factor: growth of the bound from one wait to the next, 1 to 100.
        max_losses: tries that may be lost to infrastructure (a killed worker), which count apart, 0 to 1000.

    >>> Retry(4, "500ms..30s")
    Retry(max_attempts=4, base_seconds=0.5, cap_seconds=30.0, factor=2.0, max_losses=5)
    """

    max_attempts: int
    base_seconds: float
    cap_seconds: float
    factor: float
    max_losses: int

    def __init__(
        self,
        max_attempts: int = 3,
        backoff: str | None = None,
        *,
        base_seconds: Duration | None = None,
        cap_seconds: Duration | None = None,
        factor: float = 2.0,
        max_losses: int = 5,
        at: str = "retry",
    ) -> None:
        set_ = object.__setattr__
        set_(self, "max_attempts", count_of(max_attempts, f"{at}.max_attempts", 1, MAX_ATTEMPTS))
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
        set_(self, "base_seconds", base)
        set_(self, "cap_seconds", cap)
        set_(self, "factor", number_of(factor, f"{at}.factor", 1.0, MAX_FACTOR))
        set_(self, "max_losses", count_of(max_losses, f"{at}.max_losses", 0, MAX_LOSSES))

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
        fields.setdefault("cap_seconds", 60.0)
        return cls(**fields, at=at)

    def document(self) -> dict[str, Any]:
        """What of it is not the default, by the names of the document."""
        return {name: value for name in RETRY_FIELDS if (value := getattr(self, name)) != getattr(DEFAULT_RETRY, name)}


RETRY_FIELDS = ("max_attempts", "base_seconds", "factor", "cap_seconds", "max_losses")
DEFAULT_RETRY = Retry()


def _bounds(backoff: object, at: str) -> tuple[float, float]:
    parts = backoff.split("..") if isinstance(backoff, str) else []
    if len(parts) != 2:
        raise InvalidValue(
            at, backoff, "is not a pair of durations", 'Write the first and the longest wait: "1s..60s".'
        )
    return seconds_of(parts[0].strip(), at, 0), seconds_of(parts[1].strip(), at, 0)


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

    @cached_property
    def executor_json(self) -> str:
        """The field "executor" of the canonical document."""
        return '"executor":' + json.dumps(self.executor, ensure_ascii=False)

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
        return {
            "executor": self.executor,
            "queue_class": self.queue_class,
            "rule": self.rule,
            "max_attempts": self.retry.max_attempts,
            "base_ms": round(self.retry.base_seconds * 1000),
            "factor": self.retry.factor,
            "cap_ms": round(self.retry.cap_seconds * 1000),
            "max_losses": self.retry.max_losses,
            "timeout_ms": _ms(self.timeout_seconds),
            "soft_timeout_ms": _ms(self.soft_timeout_seconds),
            **self.timing.limits,
        }


def choice_policy(rule: str) -> Policy:
    """The policy of a choice: it is no work, so nothing but its trigger rule says anything."""
    return Policy("", rule, DEFAULT_RETRY, None, None, None)


def check_limits(timeout: float | None, soft_timeout: float | None, at: At) -> None:
    """The soft time limit warns before the hard one kills, so it must be the shorter one.

    Raises:
        InvalidValue: it is not.
    """
    if timeout is not None and soft_timeout is not None and soft_timeout >= timeout:
        raise InvalidValue(
            place(at), soft_timeout, f"is not shorter than the hard limit of {timeout:g} seconds", "Make it shorter."
        )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
