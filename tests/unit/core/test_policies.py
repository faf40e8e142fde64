"""What a policy comes to: layers, locks, and the record that a run keeps."""

from __future__ import annotations

import random
from typing import Any

import pytest

from scheduler.core.policies import GOVERNED, LAYERS, Place, RunPolicy, effective, resolved

PLACE = Place("nightly", "llm.ask", "batch-high", {}, {})
PROFILE: dict[str, Any] = {"executor": "llm.ask", "queue_class": None, "rule": "all_success"}
MATCHES = {"system": "*", "class": "batch-*", "executor": "llm.*", "workflow": "night*"}


def layer(
    kind: str, match: str | None = None, locked: tuple[str, ...] = (), checks: Any = (), **set_: Any
) -> dict[str, Any]:
    """One layer of a policy's record."""
    return {
        "layer": kind,
        "match": MATCHES[kind] if match is None else match,
        "set": set_,
        "locked": list(locked),
        "checks": list(checks),
    }


def policy(*layers: dict[str, Any], **checks: Any) -> dict[str, Any]:
    """A policy's record."""
    return {"version": "1", "adopt": "new", "layers": list(layers), "checks": checks, "mappers": {}}


def comes_to(profile: dict[str, Any], *layers: dict[str, Any], place: Place = PLACE) -> tuple[Any, str]:
    """(most attempts, whose word that is)."""
    found = effective(profile, layers, place)["max_attempts"]
    return found.value, found.source.by


def test_nobody_says_anything() -> None:
    """Then the defaults count, and nothing is kept for the run."""
    found = effective(PROFILE, [], PLACE)
    assert {name: it.value for name, it in found.items()} == dict(GOVERNED)
    assert {it.source.layer for it in found.values()} == {"default"}
    assert resolved(policy(), "nightly", [PROFILE], lambda _: PLACE)["profiles"] == {}


def test_of_two_layers_the_inner_one_counts() -> None:
    """Whatever the order in which they stand in the document; of two alike the later."""
    kinds = list(MATCHES)
    for outer in range(4):
        for inner in range(outer + 1, 4):
            layers = [layer(kinds[inner], max_attempts=7), layer(kinds[outer], max_attempts=9)]
            assert comes_to(PROFILE, *layers)[0] == 7
            assert comes_to(PROFILE | {"max_attempts": 4}, *layers) == (4, "node")
    assert comes_to(PROFILE, layer("executor", max_attempts=7), layer("executor", "*", max_attempts=8)) == (
        8,
        "executor *",
    )


def test_the_outermost_lock_counts() -> None:
    """No inner layer changes a locked value, the node included; an inner lock does not undo an outer one."""
    locked = layer("class", locked=("max_attempts",), max_attempts=2)
    inner = layer("workflow", locked=("max_attempts",), max_attempts=8)
    assert comes_to(PROFILE | {"max_attempts": 4}, locked, inner) == (2, "class batch-*")
    assert comes_to(PROFILE | {"max_attempts": 4}, inner) == (8, "workflow night*")


@pytest.mark.parametrize("kind", ["class", "executor", "workflow"])
def test_a_layer_concerns_what_its_pattern_matches(kind: str) -> None:
    """And nothing else."""
    assert comes_to(PROFILE, layer(kind, max_attempts=9))[0] == 9
    assert comes_to(PROFILE, layer(kind, "other*", max_attempts=9)) == (3, "default")


def test_declarations_of_class_and_executor_stand_in_their_layers() -> None:
    """What queues.toml and @executor say counts before the policy's table of the same layer, and after outer ones."""
    place = PLACE._replace(declared={"timeout_ms": 5_000}, of_class={"timeout_ms": 60_000})

    def found(*layers: dict[str, Any]) -> tuple[Any, str]:
        it = effective(PROFILE, layers, place)["timeout_ms"]
        return it.value, it.source.by

    assert found() == (5_000, "executor llm.ask (its declaration)")
    assert found(layer("system", timeout_ms=1), layer("class", timeout_ms=2))[0] == 5_000
    assert found(layer("executor", timeout_ms=3))[0] == 3
    assert found(layer("system", locked=("timeout_ms",), timeout_ms=1))[0] == 1


def test_a_ladder_keeps_what_its_steps_say() -> None:
    """Waits are the steps' own, and so is their number, unless a lock caps it."""
    steps = [{"step": "again", "on": ["timeout"], "attempts": 3}, {"step": "other", "on": ["timeout"], "executor": "b"}]
    laddered = PROFILE | {"steps": steps, "max_attempts": 4}
    waits = layer("executor", base_ms=5, max_attempts=9, max_losses=1)
    assert resolved(policy(waits), "nightly", [laddered], lambda _: PLACE)["profiles"] == {"0": {"max_losses": 1}}
    cap = layer("system", locked=("max_attempts",), max_attempts=2)
    assert resolved(policy(cap), "nightly", [laddered], lambda _: PLACE)["profiles"] == {"0": {"max_attempts": 2}}


def test_a_soft_limit_that_could_warn_of_nothing_goes() -> None:
    """A hard limit of the policy at or below the node's soft one."""
    node = PROFILE | {"timeout_ms": 9_000, "soft_timeout_ms": 8_000}
    lock = layer("system", locked=("timeout_ms",), timeout_ms=5_000)
    found = resolved(policy(lock), "nightly", [node], lambda _: PLACE)["profiles"]["0"]
    assert found == {"timeout_ms": 5_000, "soft_timeout_ms": None}


def test_choices_and_waits_are_no_work() -> None:
    """Nothing governs what nobody executes."""
    made = resolved(policy(layer("system", max_attempts=9)), "nightly", [PROFILE | {"executor": ""}], lambda _: PLACE)
    assert made["profiles"] == {}


def test_checks_follow_whoever_does_the_work() -> None:
    """By executor and class at the moment of asking, so a fallback or a bound capability does not slip by."""
    checks = {name: {"before": "attempt < 9"} for name in "abcd"}
    record = policy(
        layer("system", checks="a"),
        layer("class", checks="b"),
        layer("executor", checks="cb"),
        layer("workflow", "other", checks="d"),
        **checks,
    )
    mine = RunPolicy.from_record(resolved(record, "nightly", [PROFILE], lambda _: PLACE))
    assert [it.name for it in mine.checks_of("llm.ask", "batch-high")] == ["a", "b", "c"]
    assert [it.name for it in mine.checks_of("echo", "batch-high")] == ["a", "b"]
    assert [it.name for it in mine.checks_of("llm.ask", "standard-low")] == ["a", "c", "b"]
    assert "d" not in mine.record["checks"]


def test_the_rule_of_layers_against_an_oracle() -> None:
    """4,000 random policies: the outermost lock, else the innermost word, by one line that knows no patterns."""
    chance = random.Random(7)
    for _ in range(4_000):
        layers = []
        words: list[tuple[int, bool, int]] = []
        for _number in range(chance.randrange(6)):
            kind = chance.choice(list(MATCHES))
            locked, value = chance.random() < 0.3, chance.randrange(4, 99)
            layers.append(layer(kind, locked=("max_attempts",) if locked else (), max_attempts=value))
            words.append((LAYERS.index(kind), locked, value))
        node = chance.choice([3, 100])
        words.sort(key=lambda it: it[0])
        locks = [value for _, locked, value in words if locked]
        wanted = locks[0] if locks else node if node != 3 else words[-1][2] if words else 3
        assert comes_to(PROFILE | {"max_attempts": node}, *layers)[0] == wanted
