"""What is to become of a graph of the base load: what the checker has to know, and no more.

Pure. A plan says what stands before what, which work fails and how often, who waits for what, which edges and nodes
have conditions, and what somebody will cancel. From how the nodes before it ended follows what a node may become.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .checksum import checksum

TIMER, SIGNAL, APPROVAL = "timer", "signal", "approval"
HIGH, LOW = "high", "low"
SUCCEEDED, FAILED, SKIPPED, UPSTREAM_FAILED, CANCELLED = (
    "succeeded",
    "failed",
    "skipped",
    "upstream_failed",
    "cancelled",
)
BAD = (FAILED, UPSTREAM_FAILED, CANCELLED)
APPROVER, APPROVED = "ann", "approve"
RETRY_MS = 100
"""The wait before another try, without jitter."""


class Wait(NamedTuple):
    """What a node waits for instead of working.

    Attributes:
        kind: TIMER, SIGNAL or APPROVAL.
        name: of the signal.
        ms: of the timer.
    """

    kind: str
    name: str = ""
    ms: int = 0


class Act(NamedTuple):
    """Something that the client does while the run goes on.

    Attributes:
        at: s after the submit, at the earliest.
        what: "cancel", "signal" or "answer".
        node: for whose sake.
        twice: whether it is done again, which must change nothing.
    """

    at: float
    what: str
    node: str
    twice: bool = False


@dataclass(frozen=True)
class Extras:
    """What a graph has besides work that depends on other work; nothing by default.

    Attributes:
        tries: failing node -> how many attempts it gets; 1 when it is not here.
        flaky: node -> how many first attempts fail, by their number; there is always one more.
        mended: nodes that fail until a failure has changed their inputs; that is their second try.
        waits: node -> what it waits for; it is no work.
        delays: node -> ms before it is ready.
        choices: node -> (a parent, least): it takes the branch HIGH when the parent's output is as much, else LOW.
        guards: node -> (a parent, least): it is skipped when the parent's output is less.
        gates: (parent, child) -> least output of the parent, or the branch of a choice, that opens this edge.
        merges: nodes that need one open edge only, and no failure (none_failed_min_one_success).
        cancels: node that the client cancels -> whether it surely comes in time.
        acts: what the client does, in order.
    """

    tries: Mapping[str, int] = field(default_factory=dict)
    flaky: Mapping[str, int] = field(default_factory=dict)
    mended: frozenset[str] = frozenset()
    waits: Mapping[str, Wait] = field(default_factory=dict)
    delays: Mapping[str, int] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    guards: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    gates: Mapping[tuple[str, str], int | str] = field(default_factory=dict)
    merges: frozenset[str] = frozenset()
    cancels: Mapping[str, bool] = field(default_factory=dict)
    acts: tuple[Act, ...] = ()


NOTHING = Extras()


class Plan(NamedTuple):
    """What the checker has to know of a graph.

    Attributes:
        upstream: node -> its parents, in the order in which their outputs are handed over; every node, parents first.
        failing: nodes declared to fail.
        ms: node -> how long it works.
        extras: what there is besides.
    """

    upstream: dict[str, tuple[str, ...]]
    failing: frozenset[str]
    ms: dict[str, float]
    extras: Extras = NOTHING

    def works(self, node: str) -> bool:
        """Whether a worker runs it."""
        return node not in self.extras.waits and node not in self.extras.choices

    def handed(self, node: str) -> tuple[str, ...]:
        """The parents whose outputs it is given; the others only stand before it."""
        it = self.extras
        if not self.works(node) or node in it.merges:
            return ()
        return tuple(
            parent
            for parent in self.upstream[node]
            if (parent, node) not in it.gates
            and parent not in it.choices
            and (parent not in it.waits or it.waits[parent].kind == SIGNAL)
        )

    def closed(self, parent: str, child: str, outputs: Mapping[str, Any]) -> bool:
        """Whether the condition of an edge keeps it shut; an edge of which nothing can be said is open."""
        gate = self.extras.gates.get((parent, child))
        if gate is None or parent not in outputs:
            return False
        if isinstance(gate, str):
            return bool(outputs[parent] != {"branch": gate})
        return bool(outputs[parent] < gate)

    def may(self, node: str, states: Mapping[str, str], outputs: Mapping[str, Any]) -> frozenset[str]:
        """What a node may become.

        Args:
            states, outputs: of the nodes before it, as far as they are known.
        """
        it = self.extras
        ends = Counter(
            SKIPPED if states.get(up) == SUCCEEDED and self.closed(up, node, outputs) else states.get(up)
            for up in self.upstream[node]
        )
        bad = sum(ends[end] for end in BAD)
        found = {CANCELLED} if node in it.cancels else set()
        if bad:
            found.add(UPSTREAM_FAILED)
        if ends[SKIPPED] and (node not in it.merges or (not bad and not ends[SUCCEEDED])):
            found.add(SKIPPED)
        if found - {CANCELLED} or it.cancels.get(node):
            return frozenset(found)
        parent, least = it.guards.get(node, ("", 0))
        if parent and outputs.get(parent, least) < least:
            return frozenset({*found, SKIPPED})
        return frozenset({*found, FAILED if node in self.failing else SUCCEEDED})

    def output(self, node: str, outputs: Mapping[str, Any]) -> Any:
        """What follows as a node's output from those before it; None for what nobody can foretell.

        Raises:
            KeyError: one of those is missing.
        """
        it = self.extras
        if node in it.choices:
            parent, least = it.choices[node]
            return {"branch": HIGH if outputs[parent] >= least else LOW}
        if node in it.waits:
            return checksum(node, ()) if it.waits[node].kind == SIGNAL else None
        return checksum(node, [outputs[parent] for parent in self.handed(node)])

    def foretold(self) -> tuple[dict[str, str], dict[str, Any]]:
        """States and outputs of all nodes when no cancel that may come too late comes in time."""
        states: dict[str, str] = {}
        outputs: dict[str, Any] = {}
        for node in self.upstream:
            may = self.may(node, states, outputs)
            sure = may if self.extras.cancels.get(node) else may - {CANCELLED}
            states[node] = min(sure)
            if states[node] == SUCCEEDED:
                outputs[node] = self.output(node, outputs)
        return states, outputs

    def doomed(self) -> frozenset[str]:
        """What hangs below a failing node."""
        found: set[str] = set()
        for node, parents in self.upstream.items():
            if any(parent in found or parent in self.failing for parent in parents):
                found.add(node)
        return frozenset(found)

    def outputs(self) -> dict[str, Any]:
        """Node -> output, of every node that ends well; see `foretold`."""
        return self.foretold()[1]
