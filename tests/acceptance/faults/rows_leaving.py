"""Rows 26 to 28: workers and schedulers that leave in good order, long attempts, cancels at every moment."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from scheduler import Client, Graph, Retry, RunHandle
from scheduler.wire import RunId, shard_of
from tests.integration.invariants import problems

from . import ledger
from .harm import HARM
from .judge import ENDINGS
from .load import Load, Plan
from .looking import queued, refused_claims, still, submitted, unharmed
from .rig import Rig, eventually
from .rows import RigFactory, Verdict, row

APP = "tests.acceptance.faults.app_hostile:app"
SHUTDOWN_SECONDS = 5.0
"""What queues.toml of the suite lets a worker finish in."""


# --- leaving ----------------------------------------------------------------------------------------------------


@row(26, "soft shutdown of each worker in turn")
def soft(rigs: RigFactory, seed: int) -> Verdict:
    """SIGTERM: what ends in time is finished, the rest goes back at once and costs no retry; nothing is paid twice."""
    with rigs(app=APP) as rig:
        rig.start_all()
        rig.worker("h1", "heavy")
        rig.worker("h2", "heavy")
        rig.await_workers(len(rig.workers) + 2)
        loads = [*rig.submit_base(), _long(rig, 6, 2.5 * SHUTDOWN_SECONDS)]
        took = [_leave(rig, name, signal.SIGTERM) for name in _in_turn(rig, ["h1", "h2", *rig.workers])]
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=12, notes={"a worker took at most": max(took)})
        verdict.must(verdict.duplicates > 0, "nothing was given back: the row proved nothing")
        verdict.must(max(took) < SHUTDOWN_SECONDS + 5, f"a worker took {max(took):.1f} s to leave")
        _spent_nothing(rig, verdict)
        verdict.facts["given back"] = verdict.duplicates
        return unharmed(rig, verdict)


@row(26, "warm shutdown of each worker in turn")
def warm(rigs: RigFactory, seed: int) -> Verdict:
    """SIGINT, Celery's warm shutdown: what runs is finished, what waits goes back; no node runs twice."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        took = [_leave(rig, name, signal.SIGINT) for name in _in_turn(rig, rig.workers)]
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0, notes={"a worker took at most": max(took)})
        return unharmed(rig, verdict)


@row(26, "cold shutdown of each worker in turn")
def cold(rigs: RigFactory, seed: int) -> Verdict:
    """SIGQUIT twice: what runs in pool processes is given up, told at once, and runs elsewhere at no cost."""
    with rigs(app=APP) as rig:
        rig.start_all()
        for name in ("h1", "h2"):
            rig.worker(name, "heavy")
        rig.await_workers(len(rig.workers) + 2)
        loads = [*rig.submit_base(runs=2), _long(rig, 6, 4.0)]
        took = [_leave(rig, name, signal.SIGQUIT, again=1.0) for name in _in_turn(rig, ["h1", "h2", *rig.workers])]
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=6, notes={"a worker took at most": max(took)})
        verdict.must(verdict.duplicates > 0, "nothing was given back: the row proved nothing")
        _spent_nothing(rig, verdict)
        return unharmed(rig, verdict)


@row(26, "clean exit of each scheduler in turn")
def schedulers(rigs: RigFactory, seed: int) -> Verdict:
    """SIGTERM: its shards are the others' at once, not when its lease ends; nothing runs twice."""
    with rigs() as rig:
        rig.start_all()
        loads = rig.submit_base()
        orphaned = []
        for _ in range(2):
            for name in rig.schedulers:
                time.sleep(rig.random.uniform(0.5, 1.5))  # some work between two departures
                rig.kill(name, signal.SIGTERM)
                since = time.monotonic()
                eventually(lambda: _owners(rig) == 1, "one scheduler owns every shard", 20)
                orphaned.append(time.monotonic() - since)
                rig.again(name)
                eventually(lambda: _owners(rig) == 2, "both schedulers own shards", 20)
        rig.wait(loads, 150)
        verdict = rig.judge(loads, most_duplicates=0, notes={"taken over within": max(orphaned)})
        verdict.must(max(orphaned) < 1.0, f"shards had no owner for {max(orphaned):.2f} s after a clean exit")
        return unharmed(rig, verdict)


def _in_turn(rig: Rig, names: list[str]) -> Iterator[str]:
    """Each name, with some work in between; never begins before work is on its way."""
    eventually(lambda: len(rig.ledger()) > 50, "work is on its way")
    for name in names:
        time.sleep(rig.random.uniform(0.2, 1.0))  # some work between two departures
        yield name


def _leave(rig: Rig, name: str, how: signal.Signals, again: float | None = None) -> float:
    """Have a worker leave (told once more after `again` seconds), start it anew; how long it took, s."""
    running = rig.processes[name].running
    if again is not None:
        running.send_signal(how)
        time.sleep(again)  # between the two signals
    at = rig.kill(name, how)
    took = time.monotonic() - at
    rig.again(name)
    return took


def _long(rig: Rig, count: int, seconds: float) -> Load:
    """Attempts longer than a shutdown's patience, which may neither fail nor be lost even once."""
    retry = Retry(1, max_losses=0)
    graph = Graph("long", queue_class="heavy", retry=retry)
    upstream: dict[str, tuple[str, ...]] = {f"long-{n}": () for n in range(count)}
    for key in upstream:
        graph.add(HARM, key=key, name=key, ms=seconds * 1000)
    return submitted(rig, Plan(upstream, frozenset(), dict.fromkeys(upstream, seconds * 1000)), graph)


def _spent_nothing(rig: Rig, verdict: Verdict) -> None:
    """No work may have been done to its end twice; attempts that fail as they are meant to have their retries."""
    ends = Counter((it.run, it.node) for it in rig.ledger() if it.what == ledger.END)
    spent = [node for (_, node), times in ends.items() if times > 1]
    verdict.facts["paid twice"] = len(spent)
    verdict.must(not spent, f"{len(spent)} nodes did their work to its end twice: {spent[:5]}")


def _owners(rig: Rig) -> int:
    """How many schedulers own shards; 0 while a shard has no owner."""
    look: Any = rig.look()
    seconds, _ = look.time()
    owners = set()
    for line in look.hvals("cel:owners"):
        _, lease_end_ms, owner = line.decode().split("|", 2)
        if int(lease_end_ms) < seconds * 1000:
            return 0
        owners.add(owner)
    return len(owners)


# --- long attempts ----------------------------------------------------------------------------------------------


@row(27, "attempts of five leases, redelivered by the broker meanwhile")
def long_attempts(rigs: RigFactory, seed: int) -> Verdict:
    """Renewals hold: the broker gives the messages out again, and every such claim is refused."""
    with rigs(app=APP, settings={"CELERIAC_CELERY_FILE": "celery.toml"}) as rig:  # below each process's directory
        (rig.directory / "celery.toml").write_text(_short_visibility())
        rig.start_all()
        rig.worker("h1", "heavy")
        rig.await_workers(len(rig.workers) + 1)
        graph = Graph("long", retry=1)
        upstream: dict[str, tuple[str, ...]] = {}
        for queue_class, count in (("heavy", 4), ("work", 8)):
            for n in range(count):
                key = f"{queue_class}-{n}"
                upstream[key] = ()
                graph.add(HARM, key=key, name=key, ms=25_000, queue_class=queue_class)
        load = submitted(rig, Plan(upstream, frozenset(), dict.fromkeys(upstream, 25_000.0)), graph)
        rig.wait([load], 90)
        verdict = rig.judge([load], most_duplicates=0)
        held = refused_claims(rig)["held"]
        verdict.facts["redeliveries refused"] = held
        verdict.must(held > 0, "no message was given out again: the row proved nothing")
        return unharmed(rig, verdict)


def _short_visibility() -> str:
    """The shipped celery.toml, with a visibility timeout below an attempt's length."""
    from scheduler.settings import default_file

    text = default_file("celery.toml").read_text()
    assert text.count("visibility_timeout = 86400") == 1
    return text.replace(
        "visibility_timeout = 86400",
        "unacked_restore_interval = 1\nunacked_restore_throttle = 1\nvisibility_timeout = 7",
    )


# --- cancels and pauses -----------------------------------------------------------------------------------------------

CANCELS = 1000
CANCEL_SECONDS = 10.0
"""Less than the grace of what runs: a cancelled run must not wait for that when nothing of it runs any more."""
MOMENTS = ("at once", "sent", "claimed", "ended", "any")


@row(28, "cancels at every moment")
def cancelled(rigs: RigFactory, seed: int) -> Verdict:
    """One final state; what had not been sent when the cancel was decided never starts; no node has two outcomes."""
    verdict = Verdict()
    ends: Counter[str] = Counter()
    with rigs() as rig:
        rig.start_all()
        client = rig.client()
        chances = [random.Random(f"{seed} {n}") for n in range(min(CANCELS, rig.nodes))]
        with ThreadPoolExecutor(12) as several:
            cancels = list(several.map(lambda chance: _cancel(rig, client, chance), chances))
        handles = [handle for handle, _ in cancels]
        slowest = max(seconds for _, seconds in cancels)
        still(rig)
        eventually(lambda: not queued(rig), "the queues are empty")
        started: dict[str, Counter[str]] = defaultdict(Counter)
        for line in rig.ledger():
            if line.what == ledger.START:
                started[line.run][line.node] += 1
        for handle in handles:
            ends[str(handle.state)] += 1
            verdict.violations += [f"run {handle.id}: {it}" for it in _after_cancel(handle, started[handle.id])]
        verdict.violations += problems(rig.look(), idle=True)
        verdict.starts = sum(map(len, started.values()))
        verdict.facts |= {"cancelled": ends["cancelled"], "too late": ends["succeeded"], "slowest": round(slowest, 1)}
        verdict.must(slowest < CANCEL_SECONDS, f"a run of short attempts ended {slowest:.1f} s after its cancel")
        verdict.must(ends["cancelled"] > len(handles) // 4, f"only {ends['cancelled']} runs were cancelled in time")
        return unharmed(rig, verdict)


@row(28, "pauses at every moment")
def paused(rigs: RigFactory, seed: int) -> Verdict:
    """Nothing is sent between a pause and its resume, whoever asks how often; then every run ends well, once."""
    verdict = Verdict()
    with rigs() as rig:
        rig.start_all()
        client = rig.client()
        chances = [random.Random(f"{seed} {n}") for n in range(min(CANCELS // 2, rig.nodes))]
        with ThreadPoolExecutor(12) as several:
            handles = list(several.map(lambda chance: _pause(rig, client, chance), chances))
        still(rig)
        started = Counter((it.run, it.node) for it in rig.ledger() if it.what == ledger.START)
        pauses = 0
        for handle in handles:
            events = list(handle.events(follow=False))
            verdict.violations += [f"run {handle.id}: {it}" for it in _while_paused(events)]
            verdict.must(handle.state == "succeeded", f"run {handle.id} ended {handle.state}")
            pauses += sum(it.node is None and it.move == "paused" for it in events)
        wrong = [node for node, times in started.items() if times != 1]
        verdict.must(not wrong and len(started) == 4 * len(handles), f"nodes that did not run once: {wrong[:5]}")
        verdict.violations += problems(rig.look(), idle=True)
        verdict.starts = len(started)
        verdict.facts |= {"runs": len(handles), "pauses": pauses}
        verdict.must(pauses > len(handles) // 4, f"only {pauses} pauses came in time")
        return unharmed(rig, verdict)


def _pause(rig: Rig, client: Client, chance: random.Random) -> RunHandle:
    """Submit a small run, pause it at some moment, perhaps twice, resume it and wait for its end."""
    handle = _small(client, chance)
    _await_moment(rig, handle, chance)
    for _ in range(chance.choice((1, 1, 2))):
        handle.pause("a look", by="ann")
    time.sleep(chance.uniform(0, 0.3))  # so long it is paused
    for _ in range(chance.choice((1, 1, 2))):
        handle.resume(by="bob")
    handle.wait(60)
    return handle


def _while_paused(events: list[Any]) -> Iterator[str]:
    """What went out of a run although it was paused."""
    stopped = False
    for it in events:
        if it.node is None:
            stopped = it.move == "paused"
        elif stopped and it.move == "dispatch":
            yield f"{it.node} was sent while the run was paused"


def _small(client: Client, chance: random.Random) -> RunHandle:
    """A run of four short nodes."""
    graph = Graph("small", retry=1, queue_class="work")
    step = partial(graph.add, "faults.step")
    first = step(key="a", name="a", ms=chance.uniform(1, 30), parents=[])
    both = [step(key=key, name=key, ms=chance.uniform(1, 30), parents=[first]) for key in ("b", "c")]
    step(key="d", name="d", ms=1, parents=both)
    return client.submit(graph, check=False)


def _cancel(rig: Rig, client: Client, chance: random.Random) -> tuple[RunHandle, float]:
    """Submit a small run, cancel it at some moment, perhaps twice, and wait for its end; how long that took, in s."""
    handle = _small(client, chance)
    _await_moment(rig, handle, chance)
    for _ in range(chance.choice((1, 1, 2))):
        handle.cancel("a race")
    began = time.monotonic()
    handle.wait(60)
    return handle, time.monotonic() - began


def _await_moment(rig: Rig, handle: RunHandle, chance: random.Random) -> None:
    """Returns at the moment that was drawn, as soon as it is seen; after a second in any case."""
    moment = chance.choice(MOMENTS)
    if moment == "any":
        time.sleep(chance.uniform(0, 0.15))  # that is the moment
    key = f"{{cel:{shard_of(RunId(handle.id), 16)}}}:attempts"
    look: Any = rig.look()
    until = time.monotonic() + (1.0 if moment in ("sent", "claimed", "ended") else 0.0)
    seen = False
    while time.monotonic() < until:
        states = [state[:1] for id_, state in look.hgetall(key).items() if handle.id.encode() in id_]
        if (moment == "sent" and b"s" in states) or (moment == "claimed" and b"c" in states):
            return
        if moment == "ended" and seen and not states:
            return
        seen = seen or bool(states)


def _after_cancel(handle: RunHandle, started: Counter[str]) -> Iterator[str]:
    """What is wrong with a run that somebody tried to cancel."""
    events = list(handle.events(follow=False))
    finals = [it.move for it in events if it.node is None and it.move != "cancelling"]
    if finals != [str(handle.state)]:
        yield f"it is {handle.state}, and its ends were told as {finals}"
    stopped = next((at for at, it in enumerate(events) if it.node is None), len(events))
    sent = {it.node for it in events[:stopped] if it.move == "dispatch"}
    for it in events[stopped:]:
        if it.move in ("ready", "dispatch", "wake"):
            yield f"{it.node}: {it.move} after the run was {events[stopped].move}"
    for node, times in started.items():
        if node not in sent:
            yield f"{node} started and had not been sent before the run was {events[stopped].move}"
        if times > 1:
            yield f"{node} started {times} times"
    outcomes = Counter(it.node for it in events if it.node is not None and it.move in ENDINGS)
    for node in ("a", "b", "c", "d"):
        if outcomes[node] != 1:
            yield f"{node} has {outcomes[node]} outcomes"
