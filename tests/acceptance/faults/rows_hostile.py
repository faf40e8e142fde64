"""Rows 18, 19, 22 and 23: messages and reports that come twice, late, malformed, or not at all."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

from scheduler import Graph, Retry, RunHandle
from scheduler.errors import WaitTimeout

from . import ledger
from .harm import FAILS_FIRST, HARM
from .hostile import (
    GOOD_BODY,
    PICKLE_TYPE,
    SHAPES,
    Bomb,
    Doubler,
    corrupt,
    envelope,
    forge,
    headers_of,
    reorder,
    vanish,
)
from .load import Load
from .looking import (
    DISPATCH_SECONDS,
    QUEUES,
    began,
    connected,
    dead_letters,
    difference,
    flying,
    inboxes,
    planned,
    queued,
    refused_claims,
    still,
    stored,
    submitted,
    taken,
    unharmed,
)
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

APP = "tests.acceptance.faults.app_hostile:app"
NODES_HIT = 6
"""As many as one worker has threads: with more, one may get a seventh, which waits until the others have ended."""


# --- twice and late ---------------------------------------------------------------------------------------------


@row(18, "every message and every report comes twice", fast=True)
def doubled(rigs: RigFactory, seed: int) -> Verdict:
    """Each message and each inbox entry is there twice: the second claim is refused, the second report is late."""
    with rigs() as rig:
        rig.start_all()
        with connected(rig) as client, Doubler(client, QUEUES) as twice:
            loads = rig.submit_base()
            rig.wait(loads, 150)
            twice.catch_up()
            eventually(lambda: not queued(rig), "the workers have looked at every message", 60)
        verdict = rig.judge(loads, most_duplicates=0)
        verdict.facts |= {"attempts sent twice": twice.attempts, "reports twice": twice.reports}
        verdict.must(twice.attempts >= verdict.starts, f"only {twice.attempts} attempts were sent twice")
        verdict.must(twice.reports >= verdict.starts, f"only {twice.reports} reports came twice")
        refused = _told_of(rig, verdict.starts, 1 if verdict.duplicates else 30)
        verdict.facts["claims refused"] = refused
        verdict.must(refused >= verdict.starts, f"workers tell of {refused} refused claims for {verdict.starts} starts")
        return unharmed(rig, verdict)


def _told_of(rig: Rig, least: int, seconds: float) -> int:
    """Claims that were refused, once workers tell of enough of them; they do so with each heartbeat."""
    until = time.monotonic() + seconds
    while sum(refused_claims(rig).values()) < least and time.monotonic() < until:
        time.sleep(0.05)  # between two looks
    return sum(refused_claims(rig).values())


@row(19, "reports shuffled and repeated while no scheduler runs")
def shuffled(rigs: RigFactory, seed: int) -> Verdict:
    """Whatever order reports come in, and however often, every node runs once."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        eventually(lambda: len(rig.ledger()) > rig.nodes, "a part of the work is done")
        for name in rig.schedulers:
            rig.kill(name)
        still(rig)
        moved = reorder(rig.look(), inboxes(rig), rig.random, again=0.5)
        for name in rig.schedulers:
            rig.again(name)
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0, notes={"moved": moved})
        verdict.must(moved > 0, "no report waited to be shuffled")
        return unharmed(rig, verdict)


@row(19, "attempt 1 reports after attempt 2 began")
def late(rigs: RigFactory, seed: int) -> Verdict:
    """Reports of any other attempt than the one that runs change nothing, whatever they say."""
    seconds = [f"first-{n}" for n in range(NODES_HIT)]
    upstream: dict[str, tuple[str, ...]] = dict.fromkeys(seconds, ())
    upstream |= {f"then-{n}": (f"first-{n}",) for n in range(NODES_HIT)}

    def add(graph: Graph, key: str, parents: list[Any]) -> Any:
        how, ms = ("", 1) if parents else (FAILS_FIRST, 5000)
        retry = Retry(3, base_seconds=0, cap_seconds=0)
        return graph.add(HARM, key=key, name=key, how=how, ms=ms, parents=parents, retry=retry, queue_class="work")

    with rigs(app=APP) as rig:
        rig.start_all()
        load = submitted(rig, *planned("late", upstream, add))
        eventually(lambda: began(rig, seconds, 2), "every second attempt has begun")
        current = [id_ for id_ in flying(rig) if id_.endswith(".2")]
        reports = [report for id_ in current for report in _others(id_)] * 2
        rig.random.shuffle(reports)
        before = stored(rig, load)
        _forge(rig, reports)
        after = stored(rig, load)
        early = sum(it.what == ledger.END for it in rig.ledger())
        rig.wait([load], 60)
        verdict = rig.judge([load], most_duplicates=NODES_HIT, notes={"forged": len(reports)})
        verdict.must(len(current) == NODES_HIT, f"{len(current)} second attempts ran: the row proved nothing")
        verdict.must(not early, f"{early} attempts ended before the state was compared: the row proved nothing")
        verdict.must(before == after, f"a report changed the state: {difference(before, after)}")
        ended = stored(rig, load)
        _forge(rig, reports)
        verdict.must(
            stored(rig, load) == ended, f"a report changed an ended run: {difference(ended, stored(rig, load))}"
        )
        return unharmed(rig, verdict)


def _others(id_: str) -> Iterator[tuple[str, str]]:
    """Reports of attempts that are not this one."""
    node, epoch, _ = id_.rsplit(".", 2)
    for other in (f"{node}.{epoch}.1", f"{node}.{epoch}.3", f"{node}.2.2", f"{node}.0.2"):
        for end in ("succeeded", "failed", "lost", "retried"):
            yield other, end


def _forge(rig: Rig, reports: list[tuple[str, str]]) -> None:
    """Lay reports into the inboxes and wait until they have been taken."""
    for id_, end in reports:
        kind = rig.random.choice(("permanent", "transient", "lost"))
        forge(rig.look(), id_, end, output=666, error={"kind": kind, "type": "Forged", "message": "no"})
    taken(rig)


# --- malformed --------------------------------------------------------------------------------------------------


@row(22, "malformed messages in live queues", fast=True)
def malformed(rigs: RigFactory, seed: int) -> Verdict:
    """All shapes, into both queues, as strangers, as attempts of no run, and in place of real messages."""
    with rigs(app=APP) as rig:
        rig.start_all()
        rig.worker("h1", "heavy")
        rig.await_workers(len(rig.workers) + 1)
        bomb = rig.directory / "unpickled"
        loads = rig.submit_base()
        eventually(lambda: len(rig.ledger()) > rig.nodes // 4, "work is on its way")
        hit = _corrupt(rig)
        pushed = _push_malformed(rig, bomb)
        fence = rig.client().submit(_fence(), check=False)
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0, notes={"pushed": pushed, "in place": len(hit)})
        if verdict.violations:
            return verdict
        verdict.must(_end(fence) == "succeeded", "what came after the malformed messages did not run")
        verdict.must(not bomb.exists(), "somebody unpickled a message")
        verdict.must(len(hit) == len(SHAPES) - 2, f"only {len(hit)} messages were found to be made malformed")
        eventually(lambda: not queued(rig), "the queues are empty", 30)
        verdict.facts["rejected"] = rejected = _rejected(rig, pushed + len(hit))
        verdict.must(rejected == pushed + len(hit), f"{rejected} rejections were counted, {pushed + len(hit)} expected")
        return unharmed(rig, verdict)


def _push_malformed(rig: Rig, bomb: Any) -> int:
    """Each shape into each queue, under ids of strangers and of attempts that nobody knows; and a pickle that tells."""
    pushed = 0
    look: Any = rig.look()
    for queue in QUEUES:
        for n, shape in enumerate(SHAPES):
            for id_ in (f"8b0b3a4e-37d5-4c1e-9d5e-3b6d6f1f0c{n:02d}", f"0.{'0' * 25}{n}.0.1.1"):
                message = shape.change([[1], *GOOD_BODY[1:]], headers_of(id_, HARM))
                look.lpush(queue, envelope(queue, message))
                pushed += 1
        armed = (pickle.dumps(Bomb(bomb)), headers_of("bomb", HARM), PICKLE_TYPE)
        look.lpush(queue, envelope(queue, armed))
        pushed += 1
    return pushed


def _corrupt(rig: Rig) -> list[str]:
    """Real messages become malformed. Not those shapes that hide whose they were, or that name another task."""
    shapes = [it for it in SHAPES if it.name not in ("no id", "unregistered name")]
    look: Any = rig.look()
    eventually(lambda: look.llen(QUEUES[0]) > 2 * len(shapes), "messages wait in the queue")
    return corrupt(look, QUEUES[0], shapes)


def _fence() -> Graph:
    graph = Graph("fence")
    for queue_class in ("work", "heavy"):
        for n in range(8):
            graph.add(HARM, key=f"{queue_class}-{n}", name="fence", quiet=True, queue_class=queue_class)
    return graph


def _end(run: RunHandle) -> str:
    try:
        return str(run.wait(60))
    except WaitTimeout:
        return "not ended"


def _rejected(rig: Rig, expected: int) -> int:
    """How many messages the system says that it rejected, once that is what is expected: letters, and what workers
    tell of those that became none. Letters take their way through inboxes; workers tell with each heartbeat.
    """

    def counted() -> int:
        return len(dead_letters(rig, "message")) + refused_claims(rig)["passed over"]

    until = time.monotonic() + 30
    while counted() < expected and time.monotonic() < until:
        time.sleep(0.05)  # between two looks
    return counted()


# --- vanished ---------------------------------------------------------------------------------------------------


@row(23, "queues and unacknowledged messages are deleted mid-run")
def vanished(rigs: RigFactory, seed: int) -> Verdict:
    """What was on its way is sent again once it has not been claimed for the dispatch deadline; every node runs."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        gone: list[tuple[int, int]] = []
        for part in (0.25, 0.5):
            _await_part(rig, part)
            gone.append((_now_ms(rig), vanish(rig.look(), QUEUES)))
        rig.wait(loads, 150)
        count = sum(messages for _, messages in gone)
        verdict = rig.judge(loads, most_duplicates=0, notes={"vanished": count})
        waits = list(_waits(loads, [at_ms for at_ms, _ in gone]))
        verdict.facts |= {"sent again": len(waits), "after at most": max((it for it, _ in waits), default=0.0)}
        verdict.must(count > 0, "nothing vanished: the row proved nothing")
        verdict.must(bool(waits), "nothing was sent again: the row proved nothing")
        for seconds, limit in waits:
            verdict.must(seconds <= limit, f"a lost message was sent again after {seconds} s, it should be {limit} s")
        return unharmed(rig, verdict)


def _await_part(rig: Rig, part: float) -> None:
    """Returns when that part of the three base runs has ended."""
    lines = 2 * 3 * rig.nodes * part
    eventually(lambda: len(rig.ledger()) > lines, f"{part:.0%} of the work is done", 120)


def _now_ms(rig: Rig) -> int:
    seconds, micros = rig.look().time()
    return int(seconds) * 1000 + int(micros) // 1000


def _waits(loads: list[Load], gone_at_ms: list[int]) -> Iterator[tuple[float, float]]:
    """(how long it took from its vanishing, at most allowed), in s, of each attempt that was given up unclaimed."""
    for load in loads:
        for view in load.handle.nodes():
            lost = [it for it in view.tries if it.end == "lost" and not it.claimed_at_ms]
            for again, it in enumerate(lost):
                vanished = next((at for at in gone_at_ms if at >= it.dispatched_at_ms), it.dispatched_at_ms)
                yield (it.ended_at_ms - vanished) / 1000, DISPATCH_SECONDS * 2**again + 3
