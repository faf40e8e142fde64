"""What exceptions mean, and what an output may be."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import Ignore, NotRegistered, Reject, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from scheduler.errors import (
    ERROR_KINDS,
    BudgetExceeded,
    Cancelled,
    ContractBroken,
    InvalidInput,
    InvalidValue,
    Permanent,
    RateLimited,
    SafetyRefused,
    SecretMissing,
    TimedOut,
    Transient,
)
from scheduler.worker.endings import check_errors, ending, error_of, kind_of, meaning_of, refuses
from scheduler.worker.report import encode


class Mine(ValueError):
    """An exception of a user."""


@pytest.mark.parametrize(
    ("exc", "kind", "end"),
    [
        (Transient("x"), "transient", "failed"),
        (RateLimited("x", 2), "rate_limited", "failed"),
        (InvalidInput("x"), "invalid_input", "failed"),
        (ContractBroken("x"), "contract", "failed"),
        (Permanent("x"), "permanent", "failed"),
        (Mine("x"), "transient", "failed"),
        (TypeError("x"), "transient", "failed"),
        (ConnectionError("x"), "transient", "failed"),
        (SoftTimeLimitExceeded(), "timeout", "failed"),
        (TimeLimitExceeded(5), "timeout", "failed"),
        (EncodeError("x"), "contract", "failed"),
        (NotRegistered("x"), "permanent", "failed"),
        (Ignore("x"), "permanent", "failed"),
        (Reject("x"), "permanent", "failed"),
        (MemoryError(), "lost", "lost"),
        (WorkerLostError("x"), "lost", "lost"),
        (SystemExit(1), "lost", "lost"),
    ],
)
def test_each_exception_has_one_meaning(exc: BaseException, kind: str, end: str) -> None:
    """Losses are the infrastructure's and do not use up retries; everything else is the executor's."""
    told = ending(exc)
    assert (told.error["kind"], told.end) == (kind, end)
    assert told.error["type"] == type(exc).__name__
    assert kind in ERROR_KINDS


def test_the_most_particular_declaration_counts() -> None:
    """A declared base class speaks for its subclasses, but not over a more particular word, ours included."""
    assert kind_of(Mine(), [{ValueError: "permanent"}]) == "permanent"
    assert kind_of(Mine(), [{Mine: "rate_limited"}, {ValueError: "permanent", Mine: "transient"}]) == "rate_limited"
    assert kind_of(SoftTimeLimitExceeded(), [{Exception: "permanent"}]) == "timeout"
    assert kind_of(MemoryError(), [{Exception: "permanent"}]) == "lost"
    assert kind_of(MemoryError(), [{MemoryError: "permanent"}]) == "permanent"
    assert kind_of(Transient(), [{Exception: "permanent"}]) == "transient"


def test_an_exception_is_declared_by_class_or_by_its_full_name() -> None:
    """Subclasses are meant too; a library that workers have and others lack is named, not imported."""
    mine = f"{__name__}.Mine"
    assert meaning_of(Mine(), [{mine: "permanent"}]) == ("permanent", None)
    assert meaning_of(Mine(), [{"builtins.ValueError": ("rate_limited", "external")}]) == ("rate_limited", "external")
    assert meaning_of(Mine(), [{ValueError: "permanent", mine: "timeout"}]) == ("timeout", None)
    assert meaning_of(Mine(), [{"builtins.ValueError": "permanent"}, {Mine: "timeout"}]) == ("timeout", None)
    assert meaning_of(KeyError(), [{mine: "permanent"}]) == ("transient", None)


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        ({ValueError: "permament"}, r"x\[ValueError\]: 'permament' is not an error kind.*Did you mean 'permanent'"),
        ({"requests.HTTPError": 5}, r"x\[requests.HTTPError\]: 5 is not an error kind"),
        ({ValueError: ("transient", "elsewhere")}, "'elsewhere' is not an origin. Use one of policy, contract"),
        ({ValueError: ("transient",)}, "is not an error kind"),
        ({"ValueError": "permanent"}, "'ValueError' is not the full name of an exception.*builtins.KeyError"),
        ({"a..b": "permanent"}, "is not the full name"),
        ({int: "permanent"}, "is no class of exceptions"),
        ([ValueError], "is no mapping"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(errors: Any, problem: str) -> None:
    """When it is made, with the place and the remedy, not when the first attempt fails."""
    with pytest.raises(InvalidValue, match=problem):
        check_errors(errors, "x")


@pytest.mark.parametrize(
    ("exc", "origin", "phase"),
    [
        (ValueError("x"), "executor", "execute"),
        (SoftTimeLimitExceeded(), "executor", "execute"),
        (ConnectionRefusedError("x"), "external", "execute"),
        (RateLimited("x", 1), "external", "execute"),
        (TimedOut("x", origin="external"), "external", "execute"),
        (InvalidInput("x"), "contract", "execute"),
        (EncodeError("x"), "contract", "collect"),
        (SafetyRefused("x"), "policy", "execute"),
        (BudgetExceeded("x"), "policy", "execute"),
        (Cancelled("x"), "policy", "execute"),
        (WorkerLostError("x"), "infrastructure", "execute"),
        (NotRegistered("x"), "infrastructure", "dispatch"),
        (SecretMissing("x"), "infrastructure", "dispatch"),
        (Transient("x", origin="infrastructure"), "infrastructure", "execute"),
    ],
)
def test_each_error_says_who_is_at_fault_and_where_it_was(exc: BaseException, origin: str, phase: str) -> None:
    """By its kind, unless its class or whoever raised it says otherwise."""
    error = ending(exc).error
    assert (error["origin"], error["phase"]) == (origin, phase)


def test_an_origin_that_is_none_is_refused() -> None:
    """Where the exception is made, so a typo shows in the executor's own tests."""
    with pytest.raises(InvalidValue, match=r"'extern' is no origin of an error\. Use one of policy, contract"):
        Transient("x", origin="extern")


@pytest.mark.parametrize(("seconds", "after_ms"), [(2.5, 2500), (0, 0), (-3, 0), (None, None)])
def test_a_rate_limit_carries_its_pause(seconds: float | None, after_ms: int | None) -> None:
    """In whole milliseconds, never negative."""
    assert ending(RateLimited("x", seconds)).retry_after_ms == after_ms


def test_an_exception_without_readable_text_is_told_nevertheless() -> None:
    """A foreign __str__ may raise, and a long one is cut."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_of(Broken(), "transient")["type"] == "Broken"
    assert len(error_of(ValueError("x" * 10_000), "transient")["message"]) <= 2000


def test_arguments_are_refused_by_signature_only() -> None:
    """A TypeError from inside the function is not the arguments' fault."""

    def run(a: int, *, b: int = 0) -> None:
        """Takes what it says."""

    task = SimpleNamespace(run=run)
    assert not refuses(task, [1], {"b": 2})
    assert refuses(task, [1, 2], {})
    assert refuses(task, [], {})
    assert refuses(task, [1], {"c": 2})


@pytest.mark.parametrize(
    "value", [None, True, 1, -1.5, "é \U0001f600", [], {"a": [1, {"b": None}]}, ["\x00"], 10**30, {1: 2}]
)
def test_json_values_travel(value: Any) -> None:
    """Compact, in UTF-8; a number as a key becomes text, as JSON has it."""
    data = encode(value)
    expected = {"1": 2} if value == {1: 2} else value
    assert kombu_json.loads(data) == expected
    assert b": " not in data


def test_dates_ids_and_decimals_come_back_as_they_were() -> None:
    """By the same forms as in Celery's messages and results."""
    value = {"at": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "id": UUID(int=7), "sum": Decimal("1.10")}
    assert kombu_json.loads(encode(value)) == value


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}, object(), "\ud800", {(1, 2): 3}])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    """As Celery refuses what it cannot encode, with the reason and a remedy."""
    with pytest.raises(EncodeError, match="Return plain data"):
        encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Instead of a stack overflow."""
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EncodeError):
        encode(cycle)
