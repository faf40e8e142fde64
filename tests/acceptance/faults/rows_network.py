"""Rows 9 to 15 and 25: a Redis that does not answer, and a network between it and everybody else that breaks."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence

from scheduler import StoreUnreachable
from scheduler.service.dispatch import CLAIM_GRACE_MS
from scheduler.settings import read_queues
from scheduler.store.scripts import CLAIM, COMMIT, SUBMIT

from .links import Loss
from .load import Load, random_plan, submit
from .proxy import TO_CLIENT, TO_SERVER, Proxy
from .rig import HERE, KINDS, Rig, eventually
from .rows import RigFactory, Verdict, row
from .server import free_port
from .watch import computed_seconds, given_up, reconnected, slowest

WORK = read_queues(HERE / "queues.toml")["work"]
SLOTS = 3 * WORK.concurrency
"""Attempts that can run at one time, with three workers."""
NOTICED_SECONDS = 15.0
DISPATCH_DEADLINE_SECONDS = WORK.target_wait_seconds + CLAIM_GRACE_MS / 1000
"""How long a message may stay unclaimed before it is looked for."""
UNDER_WAY = 300
"""Nodes that have started before anything is broken."""


def under_way(rig: Rig, starts: int | None = None) -> None:
    """Returns when the load is running."""
    wanted = min(UNDER_WAY, rig.nodes // 4) if starts is None else starts
    eventually(lambda: len(rig.ledger()) >= wanted, f"{wanted} lines in the ledger")


def part(rig: Rig, loads: Sequence[Load], percent: float) -> int:
    """So many per cent of all nodes."""
    return int(sum(len(load.plan.upstream) for load in loads) * percent / 100)


def links(rig: Rig) -> dict[str, tuple[int, int]]:
    """Every connection that somebody listens on: who, and through which proxy."""
    ports = {kind: proxy.url_port for kind, proxy in rig.proxies.items()}
    found = {f"{name} store": (rig.pid(name), ports["scheduler"]) for name in rig.schedulers}
    found |= {f"{name} store": (rig.pid(name), ports["worker"]) for name in rig.workers}
    found |= {f"{name} broker": (rig.pid(name), ports["broker"]) for name in rig.workers}
    return found | {"client": (os.getpid(), ports["client"])}


def everywhere(rig: Rig, verb: str, *args: object) -> None:
    """The same verb to every proxy."""
    for proxy in rig.proxies.values():
        getattr(proxy, verb)(*args)


# -- 9: Redis does not answer ---------------------------------------------------------------------------


def frozen(rigs: RigFactory, seconds: float, most_duplicates: int) -> Verdict:
    """SIGSTOP to Redis with the load under way; leases are those of the shipped classes, 20 s."""
    with rigs(settings={"CELERIAC_QUEUES_FILE": str(HERE / "queues_long.toml")}) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        rig.redis.freeze()
        time.sleep(seconds)  # the fault itself
        rig.redis.thaw()
        rig.wait(loads, 180)
        return rig.judge(loads, most_duplicates=most_duplicates)


@row(9, "Redis frozen 3 s")
def row_9_3(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody loses anything."""
    return frozen(rigs, 3, 0)


@row(9, "Redis frozen 10 s, half a lease")
def row_9_10(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody loses anything."""
    return frozen(rigs, 10, 0)


@row(9, "Redis frozen 40 s, two leases")
def row_9_40(rigs: RigFactory, seed: int) -> Verdict:
    """What ran has lost its lease and runs again, and nothing else does."""
    return frozen(rigs, 40, SLOTS)


# -- 10, 11: connections reset, connections refused -----------------------------------------------------


@row(10, "every connection reset every 5 s", fast=True)
def row_10(rigs: RigFactory, seed: int) -> Verdict:
    """Until the last run has ended."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        cuts = 0
        until = time.monotonic() + 180
        while not all(load.done for load in loads) and time.monotonic() < until:
            rig.wait(loads, 5)
            everywhere(rig, "cut")
            cuts += 1
        return rig.judge(loads, most_duplicates=part(rig, loads, 2), notes={"cuts": cuts})


@row(11, "connections refused for 30 s")
def row_11(rigs: RigFactory, seed: int) -> Verdict:
    """Nobody spins, nobody floods the log, and everybody is back at work within 10 s."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        everywhere(rig, "down")
        time.sleep(5)  # what ran may end
        names = [*rig.schedulers, *rig.workers]
        before = {name: computed_seconds(rig.pid(name)) for name in names}
        said = {name: records(rig, name) for name in names}
        time.sleep(25)  # the fault itself
        busy = {name: (computed_seconds(rig.pid(name)) - before[name]) / 25 for name in names}
        lines = {name: records(rig, name) - said[name] for name in names}
        back = reconnected(links(rig), lambda: everywhere(rig, "up"), 30)
        up_at = time.monotonic()
        pids = {rig.pid(name) for name in rig.workers}
        rig.wait(loads, 180)
        first = {pid: [it.at - up_at for it in rig.ledger() if it.pid == pid and it.at > up_at][:1] for pid in pids}
        notes = {"busiest": max(busy.values()), "log records": max(lines.values()), "back": slowest(back, links(rig))}
        verdict = rig.judge(loads, most_duplicates=part(rig, loads, 2), notes=notes)
        verdict.must(max(busy.values()) < 0.10, f"somebody spins while refused: {busy}")
        verdict.must(max(lines.values()) <= 75, f"somebody floods the log while refused: {lines}")
        verdict.must(
            back.keys() == links(rig).keys() and max(back.values()) <= 10,
            f"not everybody was back in 10 s: {slowest(back, links(rig))}",
        )
        verdict.must(all(first.values()), f"a worker has done nothing since: {first}")
        return verdict


def records(rig: Rig, name: str) -> int:
    """How many records a process has logged; a record may have many lines."""
    return len(re.findall(r"(?m)^\[?20[0-9]{2}-", rig.says(name)))


# -- 12, 13: nobody is told that the connection has gone ------------------------------------------------


def half_open(rigs: RigFactory, verb: str, *args: str) -> Verdict:
    """20 s during which bytes vanish, or stand still; every process gives its connections up long before."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        expected = links(rig)
        began = time.monotonic()
        noticed = given_up(expected, lambda: everywhere(rig, verb, *args), 20)
        time.sleep(max(0.0, began + 20 - time.monotonic()))  # the rest of the fault
        everywhere(rig, "thaw")
        rig.wait(loads, 180)
        verdict = rig.judge(loads, most_duplicates=SLOTS, notes={"noticed": slowest(noticed, expected)})
        verdict.must(
            noticed.keys() == expected.keys() and max(noticed.values()) <= NOTICED_SECONDS,
            f"half-open connections were not noticed in {NOTICED_SECONDS} s: {slowest(noticed, expected)}",
        )
        return verdict


@row(12, "half-open: nothing reaches Redis")
def row_12_to_server(rigs: RigFactory, seed: int) -> Verdict:
    """Commands vanish."""
    return half_open(rigs, "drop", TO_SERVER)


@row(12, "half-open: no answer comes back")
def row_12_to_client(rigs: RigFactory, seed: int) -> Verdict:
    """Commands are done, answers vanish."""
    return half_open(rigs, "drop", TO_CLIENT)


@row(12, "half-open: both ways")
def row_12_both(rigs: RigFactory, seed: int) -> Verdict:
    """As when a cable is pulled."""
    return half_open(rigs, "drop")


@row(12, "the network stands still")
def row_12_freeze(rigs: RigFactory, seed: int) -> Verdict:
    """And delivers everything when nobody listens any more."""
    return half_open(rigs, "freeze")


@row(13, "old connections silent for good")
def row_13(rigs: RigFactory, seed: int) -> Verdict:
    """Messages that are lost on them are sent again when they are overdue."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        loads = rig.submit_base()
        under_way(rig)
        expected = links(rig)
        noticed = given_up(expected, lambda: everywhere(rig, "deaf"), 20)
        rig.wait(loads, 180)
        lost = overdue_seconds(rig, loads)
        notes = {
            "noticed": slowest(noticed, expected),
            "messages lost": len(lost),
            "longest overdue": max(lost, default=0.0),
        }
        verdict = rig.judge(loads, most_duplicates=SLOTS, notes=notes)
        most = DISPATCH_DEADLINE_SECONDS + NOTICED_SECONDS
        verdict.must(max(lost, default=0.0) <= most, f"a lost message was missed only after {max(lost, default=0)} s")
        return verdict


def overdue_seconds(rig: Rig, loads: Sequence[Load]) -> list[float]:
    """For each attempt that was sent and never begun: how long until that was noticed."""
    found = []
    for load in loads:
        for view in rig.client().run(load.id).nodes():
            found += [
                (it.ended_at_ms - it.dispatched_at_ms) / 1000
                for it in view.tries
                if it.dispatched_at_ms and it.ended_at_ms and not it.claimed_at_ms
            ]
    return found


# -- 14: done, and nobody knows -------------------------------------------------------------------------


@row(14, "command done, reply lost", fast=True)
def row_14(rigs: RigFactory, seed: int) -> Verdict:
    """On submit, dispatch, commit, claim and report; each is asked again, and nothing happens twice."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        for script in (SUBMIT, COMMIT, CLAIM):
            rig.look().script_load(script.text)
        lost = dict.fromkeys(("submit", "dispatch", "commit", "claim", "report"), 0)
        loads, double = submit_unheard(rig, lost)
        watched = {
            "dispatch": (rig.proxies["broker"], b"LPUSH"),
            "commit": (rig.proxies["scheduler"], COMMIT.sha.encode()),
            "claim": (rig.proxies["worker"], CLAIM.sha.encode()),
            "report": (rig.proxies["worker"], b"XADD"),
        }
        until = time.monotonic() + 120
        while not all(load.done for load in loads) and time.monotonic() < until:
            what = rig.random.choice(sorted(watched))
            proxy, match = watched[what]
            loss = proxy.cutreply(1, match)
            rig.wait(loads, rig.random.uniform(0.2, 0.8))
            lost[what] += loss.cut
        verdict = rig.judge(loads, most_duplicates=0, notes={"replies lost": lost})
        verdict.violations += double
        verdict.must(all(lost.values()), f"a kind of reply was never lost: {lost}")
        return verdict


def submit_unheard(rig: Rig, lost: dict[str, int]) -> tuple[list[Load], list[str]]:
    """Three graphs, each under a key, with replies lost; once so often that the client gives up and its caller repeats.

    Returns:
        The runs, and what was wrong.
    """
    client, proxy = rig.client(), rig.proxies["client"]
    loads, wrong = [], []
    for number in range(3):
        plan, key = random_plan(rig.random, rig.nodes), f"graph-{number}"
        loss = proxy.cutreply(1, SUBMIT.sha.encode())
        try:
            if number == 0:
                threading.Thread(target=deny_looks, args=(proxy, loss), daemon=True).start()
            load = submit(client, plan, 300, key=key)
            if number == 0:
                wrong.append("the client never gave up: the row shows less than it says")
        except StoreUnreachable:
            load = submit(client, plan, 300, key=key)
        lost["submit"] += loss.cut
        if submit(client, plan, 300, key=key).id != load.id:
            wrong.append(f"a repeated submit of {key} made another run")
        loads.append(load)
    if len(client.runs()) != len(loads):
        wrong.append(f"{len(loads)} graphs were submitted and {len(client.runs())} runs are there")
    return loads, wrong


def deny_looks(proxy: Proxy, submitted: Loss) -> None:
    """Once a reply to a submit is lost, lose those to its repetitions: each looks first whether the run is there."""
    eventually(lambda: submitted.cut, "a lost reply")
    proxy.cutreply(3, b"HGET")


# -- 15: slow ---------------------------------------------------------------------------------------------

P99_SECONDS = 5.0
"""From ready to begun with some ten round trips of 0.4 s on the way, among them the broker's own."""


@row(15, "slow Redis: 200 +- 100 ms each way, 200 kB/s")
def row_15(rigs: RigFactory, seed: int) -> Verdict:
    """Everything takes its round trips and no more; a lease of 5 s holds."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        everywhere(rig, "delay", 200, 100)
        everywhere(rig, "rate", 200_000)
        client = rig.client()
        chains = [submit(client, random_plan(rig.random, 40), 300) for _ in range(2)]
        rig.wait(chains, 240)
        waits = sorted(
            (it.claimed_at_ms - it.ready_at_ms) / 1000
            for load in chains
            for view in client.run(load.id).nodes()
            for it in view.tries
            if it.claimed_at_ms
        )
        p99 = waits[int(len(waits) * 0.99)] if waits else 0.0
        everywhere(rig, "clear")
        verdict = rig.judge(chains, most_duplicates=0, notes={"p99 ready to begun": p99})
        verdict.must(p99 <= P99_SECONDS, f"p99 from ready to begun is {p99} s")
        return verdict


# -- 25: nobody takes the ending of a task ----------------------------------------------------------------


@row(25, "inbox and result backend away when tasks end")
def row_25(rigs: RigFactory, seed: int) -> Verdict:
    """Shorter than a lease and longer: the report arrives, or the attempt runs again."""
    port = free_port()
    settings = {
        "CELERIAC_QUEUES_FILE": str(HERE / "queues_results.toml"),
        "CELERY_RESULT_BACKEND": f"redis://127.0.0.1:{port}/1",
    }
    with rigs(proxied=["worker"], settings=settings) as rig, Proxy(port, rig.redis.socket) as backend:
        rig.start_all()
        loads = rig.submit_base()
        outages = ((3.0, True), (12.0, True), (8.0, False))
        for at, (seconds, both) in enumerate(outages):
            under_way(rig, UNDER_WAY * (at + 1))
            backend.down()
            if both:
                rig.proxies["worker"].down()
            time.sleep(seconds)  # the fault itself
            backend.up()
            rig.proxies["worker"].up()
        rig.wait(loads, 180)
        return rig.judge(loads, most_duplicates=2 * SLOTS, notes={"results stored": stored(rig)})


def stored(rig: Rig) -> int:
    """Results in the user's own backend."""
    keyspace: Mapping[str, Mapping[str, int]] = rig.look().info("keyspace")
    return keyspace.get("db1", {}).get("keys", 0)
