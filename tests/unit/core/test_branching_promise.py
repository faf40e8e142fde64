"""Random graphs with guards, edges that may be closed, choices and stops: crashes change no outcome, an oracle agrees.

The oracle walks the graph once, in order, with Python's own comparisons; it knows nothing of events, facts or crashes.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from scheduler.core.events import Event, Opened
from scheduler.core.rules import Answer, parse_rule
from scheduler.core.run import Run
from scheduler.core.states import ENDED_RUNS, FIRST_ENDED, NodeState, RunState
from scheduler.graph import Graph
from tests.unit.core.played import RUN, T0, Played

RULES = ("all_success", "all_done", "none_failed", "none_failed_min_one_success", "none_skipped", "all_failed")
"""Rules whose answer, once all has ended, does not hang on the order of the ends."""
GRAPHS_PER_CHUNK, CHUNKS = 100, 10


class Plan:
    """A random graph, as data for the oracle, and as a Graph.

    Attributes:
        unsure: nodes that may end skipped or upstream_failed, by what ended first, and all that hang on them.
        kinds: key -> "work" or "choice".  up: key -> upstream keys.
        values: key -> its output, None when its attempts fail.
        guards: key -> (upstream key, least value).  gates: (upstream, key) -> least value, or a branch's name.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.unsure: set[str] = set()
        self.up: dict[str, list[str]] = {}
        self.kinds: dict[str, str] = {}
        self.rules: dict[str, str] = {}
        self.values: dict[str, int | None] = {}
        self.guards: dict[str, tuple[str, int]] = {}
        self.gates: dict[tuple[str, str], int | str] = {}
        self.graph = Graph("g")
        handles: dict[str, Any] = {}
        for number in range(chance.randint(2, 12)):
            key = f"n{number}"
            self._draw(key)
            handles[key] = self._add(key, handles)

    def _draw(self, key: str) -> None:
        chance = self.chance
        known = list(self.up)
        works = [it for it in known if self.kinds[it] == "work"]
        self.up[key] = sorted(chance.sample(known, min(len(known), chance.randint(0, 3))))
        self.kinds[key] = "choice" if works and chance.random() < 0.25 else "work"
        self.rules[key] = chance.choice(RULES) if self.up[key] and chance.random() < 0.6 else "all_success"
        self.values[key] = None if chance.random() < 0.15 else chance.randint(0, 9)
        mine = [it for it in self.up[key] if it in works]
        if self.kinds[key] == "choice":
            asked = chance.choice(mine or works)
            self.guards[key] = asked, chance.randint(1, 9)
            self.up[key] = sorted({*self.up[key], asked})
        elif mine and chance.random() < 0.4:
            self.guards[key] = chance.choice(mine), chance.randint(1, 9)
        for up in self.up[key]:
            if self.kinds[up] == "choice" and chance.random() < 0.7:
                self.gates[up, key] = chance.choice(("high", "low"))
            elif self.kinds[up] == "work" and chance.random() < 0.2:
                self.gates[up, key] = chance.randint(1, 9)

    def _add(self, key: str, handles: dict[str, Any]) -> Any:
        after = []
        for up in self.up[key]:
            handle, gate = handles[up], self.gates.get((up, key))
            if gate is None:
                after.append(handle)
            else:
                after.append(handle[gate] if isinstance(gate, str) else handle.when(handle.out.v >= gate))
        asked, least = self.guards.get(key, ("", 0))
        condition = handles[asked].out.v >= least if asked else True
        rule = self.rules[key]
        if self.kinds[key] == "choice":
            return self.graph.choice(key, {"high": condition}, otherwise="low", after=after, trigger_rule=rule)
        return self.graph.add("x", key=key, after=after, trigger_rule=rule, when=condition if asked else None)

    def ends(self) -> dict[str, str]:
        """How each node must end."""
        found: dict[str, str] = {}
        branches: dict[str, str] = {}
        for key, upstream in self.up.items():
            counts = dict.fromkeys(("succeeded", "failed", "upstream_failed", "skipped"), 0)
            for up in upstream:
                counts["skipped" if self._closed(up, key, found, branches) else found[up]] += 1
            answer = parse_rule(self.rules[key]).answer(len(upstream), *counts.values()) if upstream else Answer.START
            asked, least = self.guards.get(key, ("", 0))
            refused = answer is not Answer.START and counts["skipped"] and counts["failed"] + counts["upstream_failed"]
            if refused or not self.unsure.isdisjoint(upstream):
                self.unsure.add(key)
            if answer is not Answer.START:
                found[key] = "skipped" if answer is Answer.SKIP else "upstream_failed"
            elif asked and found[asked] != "succeeded":
                found[key] = "failed"  # the guard meets no value
            elif self.kinds[key] == "choice":
                found[key] = "succeeded"
                branches[key] = "high" if (self.values[asked] or 0) >= least else "low"
            elif asked and (self.values[asked] or 0) < least:
                found[key] = "skipped"
            else:
                found[key] = "failed" if self.values[key] is None else "succeeded"
        return found

    def _closed(self, up: str, key: str, found: dict[str, str], branches: dict[str, str]) -> bool:
        gate = self.gates.get((up, key))
        if gate is None or found[up] != "succeeded":
            return False
        return branches[up] != gate if isinstance(gate, str) else (self.values[up] or 0) < gate


class Mortal(Played):
    """A run whose scheduler dies now and then, in the middle of a commit or after it."""

    def __init__(self, graph: Graph, chance: random.Random) -> None:
        self.chance = chance
        self.store: dict[int, bytes] = {}
        super().__init__(graph)

    def _apply(self, event: Event) -> Any:
        decision = super()._apply(event)
        run = self.run
        moved = dict.fromkeys(move.node for move in decision.moves)
        ended = [node for node in moved if run.state[node] >= FIRST_ENDED]
        begun = [node for node in moved if node not in ended and run.state[node] != NodeState.READY]
        writes = [(node, run.record(node).encode()) for node in (*ended, *begun)]
        dies = self.chance.random() < 0.15
        kept = self.chance.randint(0, len(writes)) if dies else len(writes)
        self.store.update(writes[:kept])
        if dies:
            self._load()
            if kept < len(writes):  # what was being decided has not been consumed
                self._apply(event)
        return decision

    def _load(self) -> None:
        """The next owner: from the records, facts read again, opened."""
        run = self.run = Run.load(RUN, self.header, self.pages, self.store.items(), created_at_ms=T0)
        for node in run.guards.wanted if run.guards else ():
            key, state = run.keys[node], run.state[node]
            if run.guards and state == NodeState.SUCCEEDED:
                run.facts[node] = run.guards.facts(node, "output", self.values[key])
            elif run.guards and state == NodeState.FAILED:
                run.facts[node] = run.guards.facts(node, "error", self.values[key])
        self._apply(Opened())


def played(seed: int, *, stops: bool = False) -> tuple[Plan, Mortal]:
    """A random graph, played to its end in a random order, with crashes."""
    chance = random.Random(seed)
    plan = Plan(chance)
    if stops:
        key = chance.choice([it for it, kind in plan.kinds.items() if kind == "work"])
        plan.graph.stop_when(plan.graph.node(key).out.v >= 0)
    play = Mortal(plan.graph, chance)
    for _ in range(200):
        if play.run.run_state in ENDED_RUNS:
            break
        if sent := play.sent:
            key = chance.choice(sent)
            if (value := plan.values[key]) is None:
                play.fails(key)
            else:
                play.ends(key, {"v": value})
        else:
            play.happen(Opened())
    return plan, play


def seeds(chunk: int) -> range:
    """CELERIAC_TEST_SEED moves all of them."""
    first = int(os.environ.get("CELERIAC_TEST_SEED", "0")) + chunk * GRAPHS_PER_CHUNK
    return range(first, first + GRAPHS_PER_CHUNK)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_run_goes_the_way_that_the_oracle_foretells(chunk: int) -> None:
    """1,000 random graphs, crashes between any two records: each node ends as it must, and the run as its sinks do."""
    for seed in seeds(chunk):
        plan, play = played(seed)
        ends = plan.ends()
        sure = ends.keys() - plan.unsure
        assert {key: play.state(key) for key in sure} == {key: ends[key] for key in sure}, f"seed {seed}"
        last = {key for key in plan.up if not any(key in up for up in plan.up.values())}
        bad = {play.state(key) for key in last} - {"succeeded", "skipped"}
        assert play.run.run_state == (RunState.FAILED if bad else RunState.SUCCEEDED), f"seed {seed}"


@pytest.mark.parametrize("chunk", range(2))
def test_a_stop_ends_every_run(chunk: int) -> None:
    """With a stop condition too: what ended before it stays, what had not begun is skipped, the run succeeds by it."""
    stopped = 0
    for seed in seeds(chunk):
        plan, play = played(seed, stops=True)
        assert play.run.run_state in ENDED_RUNS, f"seed {seed}"
        assert all(NodeState(state) >= FIRST_ENDED for state in play.run.state), f"seed {seed}"
        if play.run.reason.startswith("stopped: "):
            stopped += 1
            assert play.run.run_state is RunState.SUCCEEDED
            ends = plan.ends()
            strange = {key for key, state in play.states().items() if state not in ("skipped", ends[key])}
            assert not strange - plan.unsure, f"seed {seed}"
    assert stopped > GRAPHS_PER_CHUNK // 4


def test_the_graphs_leave_nothing_out() -> None:
    """Among them every way a node can end without an attempt, and both branches, occur."""
    moves: set[str] = set()
    for seed in range(150):
        moves |= {move for _, move, _ in played(seed)[1].log}
    assert {"decide", "refuse", "skip", "upstream_fail", "succeed", "fail"} <= moves
