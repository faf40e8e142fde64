"""The judgement of a rig: gathers what the public client and the ledger say, and has the checker compare them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from redis import Redis

from scheduler import Client
from tests.integration.invariants import problems

from . import ledger
from .checker import Account, NodeAccount, Tried, check
from .load import Load


@dataclass
class Verdict:
    """What came of a row.

    Attributes:
        violations: empty means it passed.
        duplicates: executions beyond the first of each node.
        facts: for the table; times in seconds.
        nodes, starts: how many the runs had, and the ledger saw.
    """

    violations: list[str] = field(default_factory=list)
    duplicates: int = 0
    facts: dict[str, object] = field(default_factory=dict)
    nodes: int = 0
    starts: int = 0

    def must(self, holds: bool, otherwise: str) -> None:
        """One more thing that has to hold."""
        if not holds:
            self.violations.append(otherwise)


def judge(
    look: Redis,
    client: Client,
    loads: Sequence[Load],
    written: Sequence[ledger.Line],
    settle_seconds: float,
    *,
    strangers: bool = False,
) -> Verdict:
    """See Rig.judge."""
    verdict = Verdict()
    judged: list[Load] = []
    for load in loads:
        if load.error is not None or not load.done or load.state is None:
            waits = Counter(it.why for it in client.run(load.id).nodes() if it.why).most_common(2)
            verdict.violations.append(f"run {load.id}: its client was not told of the end: {load.error!r}; now {waits}")
            continue  # it goes on, so whatever is read of it now is of different moments
        judged.append(load)
    verdict.violations += left_over(look, settle_seconds)
    lines: dict[str, list[ledger.Line]] = {}
    for line in written:
        lines.setdefault(line.run, []).append(line)
    if not strangers:
        for stranger in lines.keys() - {load.id for load in loads}:
            verdict.violations.append(f"the ledger knows a run {stranger} that nobody submitted")
    without_start = 0
    for load in judged:
        found = check(load.plan, lines.get(load.id, []), account_of(client, load))
        verdict.violations += [f"run {load.id}: {it}" for it in (*load.wrong, *found.violations)]
        verdict.duplicates += found.duplicates
        verdict.nodes += len(load.plan.upstream)
        verdict.starts += found.starts
        without_start += found.claims_without_start
    ends = [load.ended_at for load in loads if load.ended_at is not None]
    if ends:
        verdict.facts["runs took"] = round(max(ends) - min(load.submitted_at for load in loads), 1)
    if without_start:
        verdict.facts["claimed, never started"] = without_start
    return verdict


def account_of(client: Client, load: Load) -> Account:
    """What the system says of a run, by its public client."""
    handle = client.run(load.id)
    nodes = {
        view.key: NodeAccount(
            view.state.word,
            bool(view.why or view.cause),
            {
                it.attempt: Tried(it.ready_at_ms, it.dispatched_at_ms, it.claimed_at_ms, it.ended_at_ms, it.end)
                for it in view.tries
            },
        )
        for view in handle.nodes()
    }
    outcomes: dict[str, list[str]] = {}
    ended_ms: dict[str, int] = {}
    for event in handle.events(follow=False):
        if event.node is not None and event.move in ENDINGS:
            outcomes.setdefault(event.node, []).append(ENDINGS[event.move])
            ended_ms[event.node] = event.at_ms
    outputs = handle.results(10) if handle.ready() else {}
    return Account(str(handle.state), nodes, outcomes, outputs, ended_ms)


ENDINGS = {
    "succeed": "succeeded",
    "fail": "failed",
    "skip": "skipped",
    "upstream_fail": "upstream_failed",
    "cancel": "cancelled",
    "decide": "succeeded",
    "refuse": "failed",
    "resolve": "succeeded",
    "expire": "failed",
}


def left_over(look: Redis, seconds: float) -> Iterator[str]:
    """What is wrong with the store once all is done: anything left in inboxes, outboxes, leases, timers."""
    until = time.monotonic() + seconds
    while True:
        found = [str(it) for it in problems(look, idle=True)]
        if not found or time.monotonic() > until:
            return iter(found)
        time.sleep(0.2)  # between two looks
