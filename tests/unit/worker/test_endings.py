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

from scheduler.errors import ContractBroken, InvalidInput, Permanent, RateLimited, Transient
from scheduler.worker.endings import KINDS, ending, error_of, kind_of, refuses
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
    assert kind in KINDS


def test_the_most_particular_declaration_counts() -> None:
    """A declared base class speaks for its subclasses, but not over a more particular word, ours included."""
    assert kind_of(Mine(), [{ValueError: "permanent"}]) == "permanent"
    assert kind_of(Mine(), [{Mine: "rate_limited"}, {ValueError: "permanent", Mine: "transient"}]) == "rate_limited"
    assert kind_of(SoftTimeLimitExceeded(), [{Exception: "permanent"}]) == "timeout"
    assert kind_of(MemoryError(), [{Exception: "permanent"}]) == "lost"
    assert kind_of(MemoryError(), [{MemoryError: "permanent"}]) == "permanent"
    assert kind_of(Transient(), [{Exception: "permanent"}]) == "transient"


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
