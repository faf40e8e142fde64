"""What makes a layered graph lifelike: retries, waits, conditions and cancels, drawn from the seed.

A few nodes of each kind, more in larger graphs; whatever would keep too much of the graph from running is left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from .plan import APPROVAL, FAILED, HIGH, LOW, SIGNAL, SUCCEEDED, TIMER, Act, Extras, Plan, Wait

HALF = 1 << 31
"""Half of all outputs are less."""
FLAKY_PART = 0.03
LOST_PART = 0.05
"""Of the nodes may end without having run, besides those below failing ones."""
WAIT_MS = (100, 300)
ACT_SECONDS = 0.75
"""So long after the submit the client acts at the latest, for every thousand nodes; it begins at once."""


def seasoned(rng: random.Random, plan: Plan) -> Plan:
    """The plan with extras; its nodes, edges and failing nodes stay."""
    return _Seasoning(rng, plan).all()


class _Seasoning:
    """Takes nodes one by one that nothing was done to yet."""

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = plan
        self.size = len(plan.upstream)
        names = [it for it in plan.upstream if it not in plan.failing and it != "join"]
        self.free = dict.fromkeys(rng.sample(names, len(names)))
        states, _ = plan.foretold()
        self.least = sum(it in (SUCCEEDED, FAILED) for it in states.values()) - self.size * LOST_PART

    def all(self) -> Plan:
        """One kind after the other, those first that need nodes of a certain place."""
        several = self.size // 1000
        self._pair()
        self._each(1 + several // 2, self._cancelled_for_sure)
        self._each(1 + several, lambda it: self._waits(it, Wait(SIGNAL, f"to {it}"), "signal"))
        self._each(1, lambda it: self._waits(it, Wait(APPROVAL), "answer"))
        self._each(1 + self.size // 400, lambda it: self._waits(it, Wait(TIMER, ms=self.rng.randint(*WAIT_MS))))
        self._each(1 + several, self._chooses)
        self._each(1 + self.size // 100, self._merges)
        self._each(1 + self.size // 300, self._guarded)
        self._each(1 + self.size // 500, self._perhaps_cancelled)
        left = list(self.free)  # what follows lets everything run
        delays, flaky, mended = 1 + self.size // 100, 1 + int(self.size * FLAKY_PART), 1 + self.size // 200
        extras = replace(
            self.plan.extras,
            delays={it: self.rng.randint(*WAIT_MS) for it in left[:delays]},
            flaky={it: self.rng.randint(1, 2) for it in left[delays : delays + flaky]},
            mended=frozenset(left[delays + flaky : delays + flaky + mended]),
            tries={it: self.rng.randint(1, 2) for it in sorted(self.plan.failing)},
            acts=tuple(sorted(self.plan.extras.acts)),
        )
        return self.plan._replace(extras=extras)

    # -- what nodes become ------------------------------------------------------------------------------------

    def _pair(self) -> None:
        """Two waits one after the other for signals of one name: the first signal must not end both."""
        for first, second in (("c0-3", "c0-4"),):
            if first in self.free and second in self.free:
                at = self._instant()
                acts = (Act(at, "signal", first, True), Act(at + 0.1, "signal", second))
                waits = dict.fromkeys((first, second), Wait(SIGNAL, "of a pair"))
                self._take(self._extras(waits=waits, acts=acts), first, second)

    def _waits(self, node: str, wait: Wait, what: str = "") -> Extras | None:
        acts = (Act(self._instant(), what, node, self.rng.random() < 0.5),) if what else ()
        return self._extras(waits={node: wait}, acts=acts)

    def _cancelled_for_sure(self, node: str) -> Extras | None:
        """It waits for a signal that is sent once it is cancelled."""
        parents = [it for it in self.plan.upstream[node] if it in self.free]
        if not parents:
            return None
        at = self._instant()
        acts = (Act(at, "cancel", node), Act(at, "signal", parents[0]))
        del self.free[parents[0]]
        wait = {parents[0]: Wait(SIGNAL, f"to {parents[0]}")}
        return self._extras(cancels={node: True}, waits=wait, acts=acts)

    def _perhaps_cancelled(self, node: str) -> Extras | None:
        """Not foretold as cancelled, so what it would keep from running is tried out."""
        acts = (Act(self._instant(), "cancel", node),)
        if not self._enough_runs(self._extras(cancels={node: True})):
            return None
        return self._extras(cancels={node: False}, acts=acts)

    def _chooses(self, node: str) -> Extras | None:
        """A choice by the output of a parent; what hangs on it and on others too needs only one of them."""
        parents = self._readable(node)
        children = [it for it, ups in self.plan.upstream.items() if node in ups]
        if not parents or any(it not in self.free for it in children) or len(children) < 2:
            return None
        gates: dict[tuple[str, str], int | str] = {(node, it): self.rng.choice((HIGH, LOW)) for it in children}
        merges = frozenset(it for it in children if len(self.plan.upstream[it]) > 1)
        found = self._extras(choices={node: (parents[0], HALF)}, gates=gates)
        return replace(found, merges=found.merges | merges)

    def _merges(self, node: str) -> Extras | None:
        """One edge has a condition, the others have none."""
        parents = self._readable(node)
        if not parents or len(self.plan.upstream[node]) < 2:
            return None
        found = self._extras(gates={(parents[0], node): HALF})
        return replace(found, merges=found.merges | {node})

    def _guarded(self, node: str) -> Extras | None:
        parents = self._readable(node)
        return self._extras(guards={node: (parents[0], HALF)}) if parents else None

    # -- how ----------------------------------------------------------------------------------------------------

    def _extras(
        self, acts: tuple[Act, ...] = (), **more: Mapping[str, object] | Mapping[tuple[str, str], object]
    ) -> Extras:
        """The plan's extras with more entries."""
        it = self.plan.extras
        changed = {name: {**getattr(it, name), **entries} for name, entries in more.items()}
        return replace(it, acts=it.acts + acts, **changed)  # type: ignore[arg-type]  # names and types are those above

    def _each(self, count: int, change: Callable[[str], Extras | None]) -> None:
        """Change so many free nodes, as far as there are any that it fits."""
        for node in self._some(count):
            kept = dict(self.free)
            extras = change(node)
            if extras is None or not self._enough_runs(extras):
                self.free = kept
                continue
            self._take(extras, node)

    def _some(self, count: int) -> Iterator[str]:
        """Free nodes, some more than are wanted; ends when so many of them were taken."""
        taken = 0
        for node in list(self.free)[: 20 * count]:
            if node not in self.free:
                continue
            yield node
            taken += node not in self.free
            if taken >= count:
                return

    def _take(self, extras: Extras, *nodes: str) -> None:
        self.plan = self.plan._replace(extras=extras)
        read = {parent for parent, _ in (*extras.choices.values(), *extras.guards.values())}
        gone = {*nodes, *extras.waits, *read, *(it for pair in extras.gates for it in pair)}
        self.free = {it: None for it in self.free if it not in gone}

    def _enough_runs(self, extras: Extras) -> bool:
        states, _ = self.plan._replace(extras=extras).foretold()
        return sum(it in (SUCCEEDED, FAILED) for it in states.values()) >= self.least

    def _readable(self, node: str) -> list[str]:
        """Parents that work, so that their outputs are numbers."""
        return [it for it in self.plan.upstream[node] if self.plan.works(it)]

    def _instant(self) -> float:
        return round(self.rng.uniform(0, ACT_SECONDS * self.size / 1000), 3)
