"""Trigger rules: may a node start, given how its upstream nodes ended?

Pure. A rule sees counts, never the graph, and answers START, SKIP, UPSTREAM_FAIL or WAIT.
Names and meanings are Airflow's, so nobody has to learn a second set; `quorum(n)` is the structured
partial join of the workflow patterns. A node without upstream nodes starts under every rule.

Two rules answer otherwise than Airflow's scheduler does (tests/unit/core/test_rules.py has each case and its reason):
one_done is upstream_failed rather than skipped when nothing ran and something further up failed, and
all_done_min_one_success takes a skipped upstream for done, as Airflow's documentation says, rather than skip at it.
A new rule is one function here and one row in tests/unit/core/test_rules.py.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass


class Answer(enum.IntEnum):
    """What a rule says."""

    WAIT = 0
    START = 1
    SKIP = 2
    UPSTREAM_FAIL = 3


WAIT, START, SKIP, UPSTREAM_FAIL = Answer.WAIT, Answer.START, Answer.SKIP, Answer.UPSTREAM_FAIL

Counts = Callable[[int, int, int, int, int], Answer]
"""(n upstream, s succeeded, f failed, u upstream_failed or cancelled, k skipped) -> Answer."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A trigger rule: its name, as documents write it, and its function of counts."""

    name: str
    answer: Counts


def _all_success(n: int, s: int, f: int, u: int, k: int) -> Answer:
    if s == n:
        return START
    return UPSTREAM_FAIL if f + u else SKIP if k else WAIT


def _all_failed(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return START if f + u == n else SKIP if s + k else WAIT


def _all_done(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return START if s + f + u + k == n else WAIT


def _all_done_min_one_success(n: int, s: int, f: int, u: int, k: int) -> Answer:
    if s + f + u + k < n:
        return WAIT
    return START if s else UPSTREAM_FAIL if f + u else SKIP


def _all_skipped(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return START if k == n else SKIP if s + f + u else WAIT


def _one_success(n: int, s: int, f: int, u: int, k: int) -> Answer:
    if s:
        return START
    return WAIT if f + u + k < n else UPSTREAM_FAIL if f + u else SKIP


def _one_failed(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return START if f + u else SKIP if s + k == n else WAIT


def _one_done(n: int, s: int, f: int, u: int, k: int) -> Answer:
    if s + f:
        return START
    return WAIT if u + k < n else UPSTREAM_FAIL if u else SKIP


def _none_failed(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return UPSTREAM_FAIL if f + u else START if s + k == n else WAIT


def _none_failed_min_one_success(n: int, s: int, f: int, u: int, k: int) -> Answer:
    if f + u:
        return UPSTREAM_FAIL
    return WAIT if s + k < n else START if s else SKIP


def _none_skipped(n: int, s: int, f: int, u: int, k: int) -> Answer:
    return SKIP if k else START if s + f + u == n else WAIT


def _always(*_counts: int) -> Answer:
    return START


def _quorum(q: int) -> Counts:
    def answer(n: int, s: int, f: int, u: int, k: int) -> Answer:
        if s >= q:
            return START
        if n - f - u - k >= q:
            return WAIT
        return UPSTREAM_FAIL if f + u else SKIP

    return answer


_NAMED: dict[str, Counts] = {
    "all_success": _all_success,
    "all_failed": _all_failed,
    "all_done": _all_done,
    "all_done_min_one_success": _all_done_min_one_success,
    # Airflow's rule looks at setup upstreams only; as long as a graph cannot name any, all of none succeeded.
    "all_done_setup_success": _all_done,
    "all_skipped": _all_skipped,
    "one_success": _one_success,
    "one_failed": _one_failed,
    "one_done": _one_done,
    "none_failed": _none_failed,
    "none_failed_min_one_success": _none_failed_min_one_success,
    "none_skipped": _none_skipped,
    "always": _always,
}
RULE_NAMES: tuple[str, ...] = tuple(_NAMED)
_QUORUM = re.compile(r"quorum\(([1-9][0-9]{0,6})\)")


def parse_rule(text: str) -> Rule:
    """The rule that a document names.

    Raises:
        ValueError: no such rule; the text lists those there are.

    >>> parse_rule("quorum(2)").answer(3, 1, 1, 0, 0), parse_rule("all_done").answer(1, 0, 1, 0, 0)
    (<Answer.WAIT: 0>, <Answer.START: 1>)
    """
    if found := _QUORUM.fullmatch(text):
        return Rule(text, _quorum(int(found[1])))
    if text not in _NAMED:
        raise ValueError(f"no trigger rule {text!r}; use one of {', '.join(RULE_NAMES)} or quorum(n) with n from 1")
    return Rule(text, _NAMED[text])


def quorum_of(text: str) -> int | None:
    """The n of `quorum(n)`, None for every other rule."""
    found = _QUORUM.fullmatch(text)
    return int(found[1]) if found else None
