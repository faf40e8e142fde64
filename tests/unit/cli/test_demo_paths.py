"""The judge of the demos by itself: how a path is read from a log, and what counts as wrong."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.cli.demo import DEMOS
from scheduler.cli.demo_paths import path_of, problems_of
from scheduler.client import Event
from tasks.examples import mode, moderation, rag
from tasks.examples.items import Ending, Item

ITEM = Item("x", {}, {"": Ending(("a", "b"), {"n": 1}), "yes": Ending(("a", "ask: yes"), {})})


def event(node: str | None, move: str, attempt: int = 1) -> Event:
    """Something that happened."""
    return Event("1-0", 1, node, move, attempt, None, "")


def test_a_path_is_what_ended_by_itself() -> None:
    """In its order, with branch, choice and attempt; what was passed over, and the run itself, left out."""
    events = [
        event(None, "running"),
        event("a", "dispatch"),
        event("a", "succeed"),
        event("way", "decide", 0),
        event("b", "skip", 0),
        event("c", "retry"),
        event("c", "succeed", 2),
        event("d", "fail", 3),
        event("ask", "resolve", 0),
        event("e", "upstream_fail", 0),
        event(None, "succeeded", 0),
    ]
    outputs: dict[str, Any] = {"a": 1, "way": {"branch": "c"}, "c": {"choice": 9}, "ask": {"choice": "no"}}
    assert path_of(events, outputs) == ("a", "way: c", "c #2", "d #3 failed", "ask: no")


@pytest.mark.parametrize(
    ("choice", "state", "path", "output", "problems"),
    [
        ("", "succeeded", ("a", "b"), {"n": 1, "more": 2}, []),
        ("yes", "succeeded", ("a", "ask: yes"), None, []),
        ("", "failed", ("a", "b"), {"n": 1}, ["the run ended failed, expected succeeded"]),
        ("", "succeeded", ("a",), {"n": 1}, ["it went a, expected a > b"]),
        ("", "succeeded", ("a", "b"), {"n": 2}, ["n is 2, expected 1"]),
        ("", "succeeded", ("a", "b"), None, ["n is None, expected 1"]),
        ("no", "succeeded", ("a", "b"), {}, ["a person's choice is 'no', expected one of ['', 'yes']"]),
    ],
)
def test_the_judge(choice: str, state: str, path: tuple[str, ...], output: Any, problems: list[str]) -> None:
    """Each row: what a run came to, and what is wrong with it."""
    assert list(problems_of(ITEM, choice, state, path, output)) == problems


@pytest.mark.parametrize("example", [mode, moderation, rag], ids=lambda it: it.__name__)
def test_items_are_told_apart_and_answer_what_they_may_be_asked(example: Any) -> None:
    """Names are distinct; an item of which something is asked has an ending for its answer."""
    names = [it.name for it in example.ITEMS]
    assert len(set(names)) == len(names)
    for it in example.ITEMS:
        assert it.answer in it.ends
        assert bool(it.answer) == bool(it.rule)


def test_every_demo_has_its_line() -> None:
    """One line each, short enough for a terminal."""
    assert all(0 < len(it.about) <= 90 for it in DEMOS.values())
