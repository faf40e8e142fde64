"""Deadlines: an attempt that would not be done by its run's deadline is not begun; the run ends when it is due."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler import Client
from scheduler.core.failures import TOO_LATE
from scheduler.core.run import Run
from scheduler.graph import Graph, Retry, Timing, again, capability, changed, other
from scheduler.service.admission import Admission
from scheduler.service.transport import MemoryTransport
from scheduler.settings import Settings
from scheduler.store.capabilities import Capabilities
from scheduler.wire import error_record
from tests.integration.echo import AtOnce, Echo, Ending, tasks, value
from tests.integration.replayed import decided_again
from tests.integration.stage import Stage, eventually, idle

HOUR_MS = 3_600_000


def error_of(stage: Stage, run: Any, node: int = 0) -> dict[str, Any]:
    """The error of a node."""
    found: dict[str, Any] = json.loads(stage.runs.values(run, [node])[node])
    return found


def one(**options: Any) -> Graph:
    """A slow node, and one after it."""
    graph = Graph("one")
    graph.add("slow", key="n", **options)
    graph.add("echo", key="after", after="n")
    return graph


def test_what_cannot_be_done_in_time_is_not_begun(stage: Stage, memory: MemoryTransport, tmp_path: Path) -> None:
    """No message; it fails as a timeout that says how long it takes and how much is left, and is not tried again."""
    stage.publish("slow", expected_seconds=7200)
    stage.publish("echo")
    with stage.scheduler(memory) as scheduler, Client(stage.url) as client:
        run = stage.submit(one(retry=Retry(5)), deadline_ms=HOUR_MS)
        assert stage.ended(run) == ["failed"]
        assert scheduler.counts["too late"] == 1
        explained = client.run(run).explain("n", check=True)
        assert explained.differs == []
        assert explained.steps[-1].why == (
            "timeout: attempt failed 1 of at most 5 times; not again by the same executor, for the run's deadline is "
            "too near"
        )
    error = error_of(stage, run)
    assert [error[it] for it in ("kind", "type", "origin", "phase")] == ["timeout", TOO_LATE, "policy", "admit"]
    assert "node 'n': 'slow' is expected to take 7200 s, and 3" in error["message"]
    assert "s are left until the run's deadline" in error["message"]
    assert stage.words(run, 0) == ["ready", "dispatch", "fail"]
    assert stage.states(run) == {"n": "failed", "after": "upstream_failed"}
    assert stage.runs.summary(run).ended_at_ms < stage.runs.summary(run).deadline_at_ms  # type: ignore[operator]  # both are there
    assert tasks(memory) == []
    decided_again(stage, run, tmp_path)
    idle(stage)


@pytest.mark.parametrize(
    ("contract", "timing", "deadline_ms", "begun"),
    [
        (7200, None, None, True),
        (None, None, HOUR_MS, True),
        (1800, None, HOUR_MS, True),
        (7200, None, HOUR_MS, False),
        (7200, "10m", HOUR_MS, True),
        (None, "2h", HOUR_MS, False),
        (1, "2h", HOUR_MS, False),
        ("soon", None, HOUR_MS, True),
    ],
)
def test_the_node_s_word_counts_before_the_executor_s(
    stage: Stage, at_once: AtOnce, contract: Any, timing: str | None, deadline_ms: int | None, begun: bool
) -> None:
    """Without a deadline, or without a word of how long it takes, everything is begun."""
    stage.publish("slow", expected_seconds=contract)
    stage.publish("echo")
    graph = one(**({} if timing is None else {"timing": Timing(expected=timing)}))
    with stage.scheduler(at_once):
        run = stage.submit(graph, **({} if deadline_ms is None else {"deadline_ms": deadline_ms}))
        assert stage.ended(run) == ["succeeded" if begun else "failed"]
    idle(stage)


def test_a_quicker_executor_does_it_instead(stage: Stage, worker: Echo, at_once: AtOnce, tmp_path: Path) -> None:
    """A ladder passes over steps of the same executor, and over others that are too slow; log and replay say so."""
    stage.publish("slow", expected_seconds=7200)
    stage.publish("slower", expected_seconds=9000)
    stage.publish("quick", expected_seconds=1)
    stage.publish("echo")
    worker.act = lambda task: value(task.executor)
    steps = [again(3), changed({"x": 1}), other("slower", attempts=2), other("quick")]
    with stage.scheduler(at_once) as scheduler, Client(stage.url) as client:
        run = stage.submit(one(retry=Retry(steps=steps), timing=Timing(expected="2h")), deadline_ms=HOUR_MS)
        assert stage.ended(run) == ["succeeded"]
        assert scheduler.counts["too late"] == 2
        assert client.run(run).results()["n"] == "quick"
        assert client.run(run).nodes()[0].fallback_from == "slow"
        assert client.run(run).explain("n", check=True).differs == []
    assert stage.words(run, 0) == ["ready", *(["dispatch", "retry", "wake"] * 2), "dispatch", "succeed"]
    decided_again(stage, run, tmp_path)
    idle(stage)


def test_many_that_are_too_late_fail_and_the_quick_ones_go(stage: Stage, at_once: AtOnce) -> None:
    """More than go out in one turn; what has time is never held up by what has none."""
    stage.publish("slow", expected_seconds=7200)
    stage.publish("echo", expected_seconds=0.5)
    graph = Graph("many")
    for number in range(1500):
        graph.add("slow", key=f"s{number}")
        if not number % 10:
            graph.add("echo", key=f"e{number}")
    with stage.scheduler(at_once) as scheduler:
        run = stage.submit(graph, deadline_ms=HOUR_MS)
        assert stage.ended(run) == ["failed"]
        assert scheduler.counts["too late"] == 1500
    assert {key[0]: state for key, state in stage.states(run).items()} == {"s": "failed", "e": "succeeded"}
    idle(stage)


def test_a_moved_deadline_counts_from_then_on(stage: Stage, memory: MemoryTransport) -> None:
    """More time lets the later node begin; what was sent before keeps the deadline that it was told."""
    stage.publish("echo")
    stage.publish("slow", expected_seconds=7200)
    graph = Graph("moved")
    graph.add("slow", key="b", after=graph.add("echo", key="a"))
    worker = Echo(stage.attempts)
    with stage.scheduler(memory), Client(stage.url) as client:
        run = stage.submit(graph, deadline_ms=HOUR_MS)
        [task] = eventually(lambda: tasks(memory))
        assert task.headers["celeriac"]["deadline_at_ms"] == stage.runs.summary(run).created_at_ms + HOUR_MS
        client.run(run).set_deadline("3h", "take your time", "ann", timeout=20)
        worker.take(tasks(memory))
        eventually(lambda: len(memory.sent) == 2)
        later = tasks(memory)[1].headers["celeriac"]["deadline_at_ms"]
        assert later == stage.runs.summary(run).deadline_at_ms
        worker.take(tasks(memory)[1:])
        assert stage.ended(run) == ["succeeded"]
    idle(stage)


def test_who_is_found_for_a_capability_is_asked_how_long_it_takes(stage: Stage, at_once: AtOnce) -> None:
    """The bound executor's word counts, as it is when the node would be sent."""
    stage.publish("a.llm", capabilities=["generate"], expected_seconds=7200)
    stage.publish("b.llm", capabilities=["generate"], expected_seconds=2)
    bindings = Capabilities(stage.client, stage.namespace)
    graph = Graph("g")
    graph.add(capability("generate"), key="n")
    for executor, state in {"a.llm": "failed", "b.llm": "succeeded"}.items():
        bindings.bind("generate", executor)
        with stage.scheduler(at_once):
            run = stage.submit(graph, deadline_ms=HOUR_MS)
            assert stage.ended(run) == [state]
    idle(stage)


@pytest.mark.parametrize(("left_ms", "begun"), [(2001, True), (2000, True), (1999, False), (0, False), (-5, False)])
def test_an_attempt_is_begun_when_it_fits_to_the_millisecond(left_ms: int, begun: bool) -> None:
    """Exactly as long as is left is in time."""
    graph = Graph("g")
    graph.add("slow", key="n")
    compiled = graph.compile()
    run = Run.load("r", compiled.header, compiled.pages(), created_at_ms=0)
    settings = Settings.load(redis_url="redis://nowhere")
    admission = Admission(settings.classes, settings.default_class.name)
    admission.learn({"slow": {"expected_seconds": 2.0}}, {})
    run.deadline_at_ms = 10_000
    objection = admission.objection(run, 0, 10_000 - left_ms)
    assert (objection is None) is begun
    if objection is not None:
        assert f"and {max(left_ms, 0) / 1000:g} s are left" in objection.error["message"]


def test_an_executor_s_own_timeout_is_tried_again(stage: Stage, worker: Echo, at_once: AtOnce) -> None:
    """Only an attempt that was never begun for want of time is not: by its type and the phase that it was in."""
    failures = [
        error_record("timeout", "TimedOut", "slow", phase="execute"),
        error_record("timeout", TOO_LATE, "an executor's own", phase="execute"),
    ]
    worker.act = lambda _: Ending("failed", kind="none", error=failures.pop()) if failures else value(1)
    graph = Graph("g")
    graph.add("echo", key="n", retry=Retry(3, "0s..0s"))
    with stage.scheduler(at_once):
        run = stage.submit(graph, deadline_ms=HOUR_MS)
        assert stage.ended(run) == ["succeeded"]
    idle(stage)
