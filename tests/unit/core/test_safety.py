"""Safety checks: what they deny, what they cannot judge, and that neither stops anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.safety import BROKEN, DENIED, Check, judge

VALUES: dict[str, Any] = {
    "input": {"prompt": "hello", "n": 3},
    "args": [1],
    "attempt": 2,
    "executor": "llm.ask",
    "graph": "g",
    "labels": {"region": "eu"},
    "node": "n",
    "queue_class": "standard-low",
    "run": "r",
}


def check(name: str = "c", **record: Any) -> Check:
    """A check of a policy."""
    return Check.from_record(name, record)


@pytest.mark.parametrize(
    "text", ["size(input.prompt) < 9", "args[0] == 1 && attempt <= 2", 'labels.region == "eu"', '"llm.ask" == executor']
)
def test_what_is_true_is_let_pass(text: str) -> None:
    """Inputs by name and position, the attempt, labels and names may be read."""
    assert judge([check(before=text)], VALUES, after=False) is None


def test_what_is_false_is_denied_by_the_first() -> None:
    """The words name the check, say its message, and what it met."""
    found = judge(
        [check(before="true"), check("a", before="input.n > 3", message="few"), check("b", before="false")],
        VALUES,
        after=False,
    )
    assert found is not None
    assert (found.type, found.holds) == (DENIED, False)
    assert found.words == "the check 'a' denies it: few: input.n > 3 is false (input.n = 3)"


def test_what_is_told_holds_no_password() -> None:
    """Of a URL among the inputs, whether it is denied or cannot be judged."""
    values = VALUES | {"input": {"url": "amqp://app:s3cret@host//"}}
    for text in ('input.url == "x"', "input.url.host == 1"):
        found = judge([check(before=text)], values, after=False)
        assert found is not None
        assert "s3cret" not in found.words


def test_hold_is_for_what_is_still_to_be_sent() -> None:
    """An output that came cannot be held back for later: it fails."""
    held = check(before="false", after="false", deny="hold")
    before, after = judge([held], VALUES, after=False), judge([held], VALUES | {"output": 1}, after=True)
    assert before is not None
    assert after is not None
    assert (before.holds, after.holds) == (True, False)


@pytest.mark.parametrize("text", ["input.nothing == 1", "input.prompt", "input.prompt > 3", "1 / (attempt - 2) > 0"])
def test_a_check_without_a_value_is_a_fault_of_the_policy(text: str) -> None:
    """Missing fields, wrong types, no truth value: told as broken, and held, never let pass."""
    found = judge([check(before=text)], VALUES, after=False)
    assert found is not None
    assert (found.type, found.holds) == (BROKEN, True)
    assert found.words.startswith("the check 'c' cannot be made")


def test_whatever_breaks_a_check_reaches_nobody_else() -> None:
    """Values that no JSON holds, and a name that is missing: still one finding, no exception."""
    for values in ({**VALUES, "input": object()}, {}):
        found = judge([check(before="input.prompt == 1")], values, after=False)
        assert found is not None
        assert (found.type, found.holds) == (BROKEN, True)
