"""The retry ladder: which rung comes after a failure, and that it follows from what the record holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.decide import decide
from scheduler.core.events import Admitted, LeaseExpired, RetryDue, RetryRequested
from scheduler.core.ladder import GROUND, next_rung
from scheduler.core.run import Profile, Run
from scheduler.core.states import NodeState
from scheduler.errors import ERROR_KINDS
from tests.unit.core.compiled import RUN_ID, T0, Spec, compiled, happen, node, opened, reported, sent, words

MENDED = ["rate_limited", "timeout", "transient"]
ALL = sorted(ERROR_KINDS)
SMALL = {"step": "again", "on": MENDED, "attempts": 3, "base_ms": 1000, "cap_ms": 60_000}
COLD = {"step": "changed", "on": [*MENDED, "invalid_input"], "attempts": 1}
BIG = {"step": "other", "on": ["lost", "permanent", *MENDED], "attempts": 2, "executor": "big", "base_ms": 400}
ASK = {"step": "escalate", "on": ALL, "question": "What now?", "to": ["ops"]}


def laddered(*steps: dict[str, Any], up: tuple[int, ...] = (), **profile: Any) -> Spec:
    """A node with a ladder; its attempts are those of the steps together."""
    most = sum(step.get("attempts", 1) for step in steps if step["step"] != "escalate")
    return node(*up, **{"steps": list(steps), "max_attempts": most} | profile)


def profile_of(*steps: dict[str, Any], **profile: Any) -> Profile:
    """The same as the core reads it."""
    return Profile.from_record(laddered(*steps, **profile).profile)


def climb(profile: Profile, *kinds: str, chance: float = 0.5) -> list[tuple[int, int] | None]:
    """Where a node stands after each of some failures: (step, wait); None for failed."""
    at, found = GROUND, list[tuple[int, int] | None]()
    for failures, kind in enumerate(kinds, 1):
        rung = next_rung(profile, at, failures, kind, chance=chance)
        if rung is None:
            return [*found, None]
        at = rung.at
        found.append((at[0], rung.wait_ms))
    return found


def test_for_want_of_time_a_node_goes_on_with_another_executor_only() -> None:
    """Never with the same one, whatever inputs it would get; a person may be asked. Without a ladder it has failed."""
    steps: list[dict[str, Any]] = [
        {"step": "again", "on": ["timeout"], "attempts": 3},
        {"step": "changed", "on": ["timeout"]},
        {"step": "other", "on": ["transient"], "executor": "deaf"},
        {"step": "other", "on": ["timeout"], "executor": "quick"},
        {"step": "again", "on": ["timeout"], "attempts": 2},
        {"step": "escalate", "on": ["timeout"], "question": "?"},
    ]
    profile = profile_of(*steps)
    first = next_rung(profile, GROUND, 1, "timeout", chance=0.5, elsewhere=True)
    assert first is not None
    assert first.at == (3, 1)
    second = next_rung(profile, first.at, 2, "timeout", chance=0.5, elsewhere=True)
    assert second is not None
    assert second.at == (5, 2)
    assert next_rung(profile_of(*steps[:2]), GROUND, 1, "timeout", chance=0.5, elsewhere=True) is None
    simple = Profile.from_record({"executor": "x", "queue_class": None})
    assert next_rung(simple, GROUND, 1, "timeout", chance=0.5, elsewhere=True) is None
    assert next_rung(simple, GROUND, 1, "timeout", chance=0.5) is not None


T, P, V, L, S = "transient", "permanent", "invalid_input", "lost", "safety"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([T, T, T, T, T, T], [(0, 500), (0, 1000), (1, 0), (2, 0), (2, 200), None]),
        ([P, T, T], [(2, 0), (2, 200), None]),  # another executor answers what the same one cannot mend
        ([P, P], [(2, 0), None]),  # and is not asked twice either when it cannot
        ([V, V], [(1, 0), None]),  # changed inputs may be valid; when they are not, nothing below answers
        ([T, V, T, T, T], [(0, 500), (1, 0), (2, 0), (2, 200), None]),
        ([T, P, T, T], [(0, 500), (2, 0), (2, 200), None]),  # never back up
        ([S], [None]),
        ([L, L], [(2, 0), None]),  # beyond the cap of losses: not the same executor again
    ],
)
def test_a_node_goes_down_the_steps_that_answer_its_errors(
    kinds: list[str], expected: list[tuple[int, int] | None]
) -> None:
    """It stays while its step answers the kind and has attempts left, else it takes the next step that answers."""
    assert climb(profile_of(SMALL, COLD, BIG), *kinds) == expected


def test_kinds_that_are_never_tried_again_end_a_node_at_once() -> None:
    """Whatever the steps answer, and for the simple policy too."""
    assert climb(profile_of(SMALL, COLD, BIG, never=["timeout"]), T, "timeout") == [(0, 500), None]
    assert climb(Profile.from_record(node(never=["timeout"]).profile), T, "timeout") == [(0, 500), None]


def test_all_steps_together_have_no_more_attempts_than_the_policy_allows() -> None:
    """A cap below the sum of the steps counts; a person is asked even so."""
    assert climb(profile_of(SMALL, BIG, max_attempts=2), T, T) == [(0, 500), None]
    assert climb(profile_of(SMALL, BIG, ASK, max_attempts=2), T, T) == [(0, 500), (2, 0)]


def test_the_last_rung_may_ask_a_person() -> None:
    """The step comes after all attempts, with its question; what follows is for whoever asks."""
    profile = profile_of(SMALL, ASK)
    assert climb(profile, T, T, T) == [(0, 500), (0, 1000), (1, 0)]
    assert (profile.steps[1].escalates, profile.steps[1].question, profile.steps[1].to) == (True, "What now?", ("ops",))


def test_a_step_without_jitter_waits_its_bound() -> None:
    """Exponential backoff as written, up to the cap, whatever the chance."""
    step = {**SMALL, "attempts": 5, "cap_ms": 3000, "jitter": False}
    assert climb(profile_of(step), T, T, T, T, chance=0.0) == [(0, 1000), (0, 2000), (0, 3000), (0, 3000)]


def test_the_same_again_waits_also_when_it_is_entered() -> None:
    """A later step of the same again is that executor again, so it waits first; another executor begins at once."""
    later = {"step": "again", "on": MENDED, "attempts": 2, "base_ms": 8000}
    assert climb(profile_of({**SMALL, "attempts": 1}, later), T, T) == [(1, 4000), (1, 8000)]


def test_a_wait_that_an_executor_asks_for_is_for_that_executor() -> None:
    """Kept while it is tried again; nobody waits for it before another one is tried."""
    profile = profile_of({**SMALL, "attempts": 2}, BIG)
    first = next_rung(profile, GROUND, 1, "rate_limited", chance=0.5, retry_after_ms=70_000)
    second = next_rung(profile, GROUND, 2, "rate_limited", chance=0.5, retry_after_ms=70_000)
    assert first is not None
    assert first.wait_ms == 70_000
    assert second is not None
    assert (second.at, second.wait_ms) == ((1, 2), 0)


def fail(run: Run, kind: str, now: int = T0) -> None:
    """The current attempt fails; the next one is sent, if there is one."""
    happen(run, reported(run, 0, "failed", kind=kind), now)
    if run.state[0] == NodeState.WAITING:
        happen(run, RetryDue(0, run.attempt[0]), now)
        happen(run, Admitted([0]), now)


def test_an_attempt_is_run_as_its_rung_says() -> None:
    """Executor, class, limits and inputs of the step, for as long as the node stands on it; the log names them."""
    run = sent(laddered({**SMALL, "attempts": 1}, BIG | {"queue_class": "slow", "timeout_ms": 7}))
    run.step_inputs[0, 1] = '[],{"a":1}'
    assert (run.way(0).executor, run.template(0), run.fallback_from(0)) == ("test.echo", "[],{}", "")
    decision = happen(run, reported(run, 0, "failed", retry_after_ms=None), T0)
    [move] = decision.moves
    assert move.why == (
        "transient: rung 2 of 2, executor big, fallback_from test.echo in 0 ms, failed 1 of at most 3 times"
    )
    way = run.way(0)
    assert (way.executor, way.queue_class, way.timeout_ms, run.template(0)) == ("big", "slow", 7, '[],{"a":1}')
    assert run.fallback_from(0) == "test.echo"


def test_a_node_that_no_rung_answers_has_failed_for_good() -> None:
    """And what follows it hears of one outcome."""
    run = sent(laddered(SMALL, BIG), node(0))
    fail(run, "permanent")
    decision = happen(run, reported(run, 0, "failed", kind="safety"), T0)
    assert decision.moves[0].why == "safety: attempt failed 2 of at most 5 times; no rung answers it"
    assert words(run) == ["failed", "upstream_failed"]


def test_a_fallback_that_succeeds_is_the_outcome_of_the_node() -> None:
    """Trigger rules see one node that succeeded."""
    run = sent(laddered({**SMALL, "attempts": 1}, BIG), node(0), node(0, rule="all_failed"))
    fail(run, "permanent")
    happen(run, reported(run, 0), T0)
    assert words(run) == ["succeeded", "ready", "skipped"]
    assert run.rung_words(0) == "rung 2 of 2, executor big, fallback_from test.echo"


def test_losses_beyond_their_cap_are_answered_by_another_executor() -> None:
    """Perhaps it is the first one's work that kills the workers; the other begins with a count of its own."""
    run = sent(laddered(SMALL, BIG, max_losses=1))
    for _ in range(2):
        happen(run, LeaseExpired(0, 1, run.attempt[0], T0, "w", False, 0.5), T0)
        if run.state[0] == NodeState.READY:
            happen(run, Admitted([0]), T0)
    assert (words(run), run.way(0).executor, run.losses[0], run.failures[0]) == (["waiting"], "big", 0, 1)
    assert [it.end for it in run.tries(0)] == ["lost", "lost"]


def test_a_node_without_a_ladder_fails_when_its_losses_are_used_up() -> None:
    """The simple policy has no rung for that."""
    run = sent(node(max_losses=0))
    happen(run, LeaseExpired(0, 1, 1, T0, "w", False, 0.5), T0)
    assert words(run) == ["failed"]


def test_a_retried_run_begins_on_the_first_step() -> None:
    """A new epoch tries the declared executor first."""
    run = sent(laddered({**SMALL, "attempts": 1}, {**BIG, "attempts": 1}))
    fail(run, "transient")
    fail(run, "transient")
    assert (words(run), run.rungs) == (["failed"], {0: (1, 1)})
    happen(run, RetryRequested("again"), T0)
    assert (words(run), run.rungs, run.way(0).executor) == (["pending"], {}, "test.echo")


def test_a_ladder_that_asks_a_person_waits_there() -> None:
    """No attempt is made, and no timer set, until somebody answers."""
    run = sent(laddered({**SMALL, "attempts": 1}, ASK))
    decision = decide(run, reported(run, 0, "failed", kind="transient"), T0)
    assert decision.timers == []
    fail(run, "transient")
    assert words(run) == ["waiting"]
    assert run.rungs == {0: (1, 1)}


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "step": st.sampled_from(["again", "changed", "other"]),
            "on": st.lists(st.sampled_from(ALL), max_size=6, unique=True),
            "attempts": st.integers(1, 3),
            "base_ms": st.sampled_from([0, 10]),
        }
    ),
    max_size=5,
)


@given(steps=STEPS, kinds=st.lists(st.sampled_from([*ALL, "lease"]), max_size=25), most=st.integers(0, 4))
def test_a_new_owner_goes_on_at_the_same_rung(steps: list[dict[str, Any]], kinds: list[str], most: int) -> None:
    """After every event a run that is loaded from its records alone decides as the one in memory does, and a node
    never has more attempts than its steps and losses allow.
    """
    for number, step in enumerate(steps):
        if step["step"] == "other":
            step["executor"] = f"e{number}"
    first = {"step": "again", "on": MENDED, "attempts": 2, "base_ms": 10}
    spec = laddered(first, *steps, max_losses=most)
    run = opened(spec)
    header, pages = compiled([spec])
    for kind in kinds:
        if run.state[0] == NodeState.WAITING:
            happen(run, RetryDue(0, run.attempt[0]), T0)
        if run.state[0] == NodeState.READY:
            happen(run, Admitted([0]), T0)
        if run.state[0] >= NodeState.SUCCEEDED:
            break
        again = Run.load(RUN_ID, header, pages, [(0, run.record(0).encode())], created_at_ms=T0)
        assert (again.rungs, again.way(0), again.record(0)) == (run.rungs, run.way(0), run.record(0))
        lease = kind == "lease"
        event = (
            LeaseExpired(0, 1, run.attempt[0], T0, "w", False, 0.5) if lease else reported(run, 0, "failed", kind=kind)
        )
        assert decide(again, event, T0) == decide(run, event, T0)
        happen(run, event, T0)
    assert run.failures[0] <= spec.profile["max_attempts"]
    assert run.attempt[0] <= spec.profile["max_attempts"] + most * (1 + len(steps)) + 1
