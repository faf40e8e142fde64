"""The suite's own tools: ledger, load, recovery times, killer, rig, and how rows are run. See also test_checker.py."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from . import ledger, recovery
from .killer import Killer
from .ledger import END, FAIL, START, Line
from .load import graph_of, random_plan
from .plan import APPROVAL, SIGNAL, TIMER
from .processes import Kill, children
from .rig import Rig
from .rows import Row, Verdict, run_row


def test_the_ledger_is_whole_with_many_writers_and_forgives_a_line_cut_short(tmp_path: Path) -> None:
    """Threads of several processes write at once; a kill in the middle of a line costs that line."""
    path = tmp_path / "ledger"
    program = (
        "import sys; from tests.acceptance.faults import ledger\n"
        "for n in range(200): ledger.write(sys.argv[1], 'start', 'r', 'n' * 300, n)"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(3)]

    def write() -> None:
        for number in range(200):
            ledger.write(str(path), END, "r", "x", number)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [it.wait(60) for it in others] == [0, 0, 0]
    assert len(ledger.read(path)) == 1200
    with path.open("a") as cut:
        cut.write('["start", "r"')
    assert len(ledger.read(path)) == 1200


def test_the_load_is_the_same_for_the_same_seed_and_is_as_promised() -> None:
    """2,000 nodes, one that waits for 500, chains, one in a hundred failing; most of the graph runs."""
    plan = random_plan(random.Random(7), 2000)
    assert plan == random_plan(random.Random(7), 2000)
    assert plan != random_plan(random.Random(8), 2000)
    assert len(plan.upstream) == 2000
    assert max(map(len, plan.upstream.values())) == 500
    assert len(plan.failing) == 20
    assert 0 < len(plan.doomed()) <= 100
    assert len(plan.outputs()) >= 1780
    seen: set[str] = set()
    for node, parents in plan.upstream.items():
        assert seen.issuperset(parents)
        seen.add(node)
    assert all(1 <= ms <= 200 for ms in plan.ms.values())
    assert any(node.startswith("c0-") for node in plan.upstream)


def test_the_load_has_something_of_every_kind_and_no_node_is_two_things() -> None:
    """Also a small one, of which most runs; what fails, waits, decides or is cancelled is one of these."""
    for nodes in (60, 600, 2000):
        plan = random_plan(random.Random(3), nodes)
        it = plan.extras
        for kind in (it.flaky, it.mended, it.delays, it.choices, it.guards, it.gates, it.merges, it.cancels):
            assert kind
        assert {wait.kind for wait in it.waits.values()} == {TIMER, SIGNAL, APPROVAL}
        assert sorted(it.cancels.values())[:: len(it.cancels) - 1] == [False, True]
        special = [*it.flaky, *it.mended, *it.waits, *it.delays, *it.choices, *it.guards, *it.cancels, *plan.failing]
        assert len(special) == len(set(special))
        told = {act.node for act in it.acts if act.what != "cancel"}
        assert told == {node for node, wait in it.waits.items() if wait.kind != TIMER}
        sure = [act.node for act in it.acts if act.what == "cancel" and it.cancels[act.node]]
        for node in sure:  # the signal that it waits for comes later
            signal = next(parent for parent in plan.upstream[node] if parent in it.waits)
            order = [(act.what, act.node) for act in it.acts]
            assert order.index(("cancel", node)) < order.index(("signal", signal))
        assert len(graph_of(plan).compile().header) > 0
        assert len(plan.outputs()) >= nodes * 0.85


def test_recovery_is_measured_from_the_kill_to_the_next_start() -> None:
    """Only attempts of killed processes count, from the kill on."""
    lines = [
        Line(START, "r", "a", 1, 1.0, 7),
        Line(START, "r", "b", 1, 1.5, 8),
        Line(END, "r", "b", 1, 1.6, 8),
        Line(START, "r", "a", 2, 7.0, 8),
    ]
    kills = [Kill(2.0, "w1", "SIGKILL", 7, 0)]
    failed = [Line(START, "r", "c", 1, 1.0, 7), Line(FAIL, "r", "c", 1, 1.1, 7), Line(START, "r", "c", 2, 9.0, 8)]
    assert recovery.reruns([*lines, *failed], kills) == [5.0]
    assert recovery.reruns(lines, kills) == [5.0]
    assert recovery.cut_short(lines, kills) == 1
    assert recovery.next_start(lines, [1.2]) == [pytest.approx(0.3)]
    assert recovery.next_dispatch({"r": [100, 900], "s": [600]}, {500: ["r", "s"]}) == [0.4]


def test_the_killer_draws_from_the_seed_and_starts_again_what_it_killed(tmp_path: Path) -> None:
    """Two rigs of one seed are struck in the same order; afterwards everything runs, with other pids than before."""
    orders = []
    for number in (1, 2):
        home = tmp_path / str(number)
        home.mkdir()
        with Rig(home, seed=5, schedulers=2, workers=0) as rig:
            rig.start_all()
            before = [rig.pid(name) for name in rig.schedulers]
            killer = Killer(rig, rig.schedulers, every=(0.05, 0.1))

            def enough(killer: Killer = killer, rig: Rig = rig) -> bool:
                with rig.ledger_path.open("a") as ledger:
                    ledger.write("\n")  # as though work went on
                return killer.strikes >= 3

            killer.until(enough, 60)
            assert all(rig.alive(name) for name in rig.schedulers)
            assert [rig.pid(name) for name in rig.schedulers] != before
            assert all(kill.how == "SIGKILL" for kill in rig.kills)
            orders.append([kill.name for kill in rig.kills])
    assert orders[0] == orders[1]


def test_a_rig_leaves_no_process_behind(tmp_path: Path) -> None:
    """Also when a row stumbles, and when processes were stopped."""
    with contextlib.suppress(RuntimeError), Rig(tmp_path, seed=1, workers=0) as rig:
        rig.start_all()
        rig.freeze("s1")
        rig.redis.freeze()
        raise RuntimeError("the row stumbled")
    mine = {it.running.pid for it in rig.processes.values()}
    assert not mine.intersection(children(os.getpid()))
    assert rig.redis.pid is None


def test_a_row_that_raises_is_a_violation_and_keeps_its_logs(tmp_path: Path) -> None:
    """A row never hides an error, nor what it had found by then; one that passed leaves nothing."""

    def broken(rigs: Callable[..., Rig], seed: int) -> Verdict:
        with rigs() as rig:
            rig.redis.start()
            rig.judge([], settle_seconds=0).must(False, "something else")
            raise RuntimeError("the row itself")

    def good(rigs: Callable[..., Rig], seed: int) -> Verdict:
        rigs()
        return Verdict()

    result = run_row(Row(98, "broken", broken), 1, tmp_path)
    assert result.verdict.violations[0] == "something else"
    assert "the row itself" in result.verdict.violations[-1]
    assert result.directory is not None
    assert result.directory.is_dir()
    result = run_row(Row(99, "good", good), 1, tmp_path)
    assert (result.verdict.violations, result.directory) == ([], None)
    assert not list(tmp_path.glob("row99*"))
