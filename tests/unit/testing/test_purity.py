"""check_purity: executors that are what they declare, and some that are not."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest

from scheduler import InvalidValue
from scheduler.testing import PurityFailed, check_purity
from scheduler.worker import Context, Executor, Permanent, attempt, executor
from tasks import feedback
from tasks.examples import mode

World = dict[str, int]


def made(purity: Any, how: str, world: World) -> Executor[..., Any]:
    """An executor that declares one thing and does another, or the same."""
    count = itertools.count()

    @executor(f"made.{how}", purity=purity)
    def run(name: str) -> int:
        context = attempt()
        assert context is not None
        key = context.key if how == "by its key" else f"{context.key}.{context.number}"
        if how == "nothing":
            return 7
        if how == "counts":
            return next(count)
        if how == "sets":
            world[name] = 1
        elif how == "adds":
            world[name] = world.get(name, 0) + 1
        else:
            world[key] = 1
        return 7

    return run


@pytest.mark.parametrize(
    ("purity", "how", "runs"),
    [
        ("pure", "nothing", 2),
        ("idempotent", "nothing", 2),
        ("idempotent", "sets", 2),
        ("idempotent", "by its key", 2),
        ("keyed", "by its key", 3),
        ("unsafe", "adds", 0),
    ],
)
def test_an_executor_that_is_what_it_declares_passes(purity: Any, how: str, runs: int) -> None:
    """It was run as its declaration allows; an unsafe one is not run at all, and the report says so."""
    world: World = {}
    report = check_purity(made(purity, how, world), {"name": "a"}, effects=lambda: world)
    assert (report.purity, report.runs) == (purity, runs)
    assert ("nothing to check" in report.said) == (purity == "unsafe")


@pytest.mark.parametrize(
    ("purity", "how", "problem"),
    [
        ("pure", "counts", "the same inputs gave 0, then 1"),
        ("pure", "sets", r"it has an effect: \{\} became \{'a': 1\}"),
        ("idempotent", "adds", r"its second run with the same key changed more: \{'a': 1\} became \{'a': 2\}"),
        ("idempotent", "by its attempt", "changed more"),
        ("keyed", "by its attempt", "changed more"),
        ("keyed", "sets", "another key has no effect of its own"),
        ("keyed", "nothing", "its first run has no effect"),
    ],
)
def test_an_executor_that_is_not_what_it_declares_is_found_out(purity: Any, how: str, problem: str) -> None:
    """With what was seen instead, as an AssertionError; also when the test hands over the very thing that changes."""
    world: World = {}
    with pytest.raises(PurityFailed, match=problem) as caught:
        check_purity(made(purity, how, world), {"name": "a"}, effects=lambda: world)
    assert isinstance(caught.value, AssertionError)
    assert (caught.value.executor, caught.value.purity) == (f"made.{how}", purity)


def test_the_second_run_is_the_second_attempt_of_the_same_node() -> None:
    """Same key, next number, as after a lost report; then another node."""
    seen: list[tuple[str, int]] = []

    @executor("made.sees", purity="keyed")
    def sees(ctx: Context) -> None:
        seen.append((ctx.key, ctx.number))

    check_purity(sees, {}, effects=lambda: {key for key, _ in seen}, key="k", other_key="l")
    assert seen == [("k", 1), ("k", 2), ("l", 1)]


def test_a_run_that_fails_proves_nothing() -> None:
    """Its kind and error are told."""

    @executor("made.fails", purity="pure")
    def fails() -> None:
        raise Permanent("no")

    with pytest.raises(PurityFailed, match="its run 1 ended with permanent: Permanent: no"):
        check_purity(fails, {})


@pytest.mark.parametrize(
    ("purity", "effects", "problem"),
    [(None, dict, "declares no purity"), ("keyed", None, "effects: None is missing for an executor that is keyed")],
)
def test_what_cannot_be_checked_is_refused(purity: Any, effects: Any, problem: str) -> None:
    """Nothing is declared, or nobody looks at what changes."""
    with pytest.raises(InvalidValue, match=problem):
        check_purity(made(purity, "nothing", {}), {"name": "a"}, effects=effects)


# --- the executors that are shipped ---------------------------------------------------------------------------

TAKEN = {"feedback_id": "f-7", "text": "A bug, and I love it"}
PURE = [
    (feedback.ingest, TAKEN),
    (feedback.sentiment, {"feedback": TAKEN}),
    (feedback.topics, {"feedback": {**TAKEN, "sentiment": "positive"}}),
    (feedback.tally, {"processed": [None]}),
]


@pytest.mark.parametrize(("it", "inputs"), PURE)
def test_the_pure_steps_of_the_feedback_pipeline_are_pure(it: Executor[..., Any], inputs: dict[str, Any]) -> None:
    """The shipped executors are what they say."""
    assert check_purity(it, inputs).runs == 2


def test_the_idempotent_step_of_the_feedback_pipeline_is_idempotent(caplog: pytest.LogCaptureFixture) -> None:
    """What it leaves behind but its log is nothing, however often it runs."""
    with caplog.at_level(logging.CRITICAL):
        check_purity(feedback.log_error, {"feedback_id": "f-7", "error": None}, effects=dict)


def test_the_copies_of_the_mode_example_are_what_they_say(tmp_path: Path) -> None:
    """Looking changes nothing; copying is done once for a key, and again for another, on a real database."""
    database = str(tmp_path / "copies.sqlite")
    source = {"source": "orders", "version": 1, "database": database}

    def rows() -> list[Any]:
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(database)) as db:
            return [db.execute(f"select * from {it} order by 1").fetchall() for it in ("copies", "versions", "applied")]

    mode.look.run(**source)
    check_purity(mode.look, source, effects=rows)
    report = check_purity(mode.sync, {**source, "mode": "full"}, effects=rows)
    assert report.said == "the same key had its effect once, and another key its own"
