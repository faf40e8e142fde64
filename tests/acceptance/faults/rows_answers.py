"""Rows 14, 15 and 25: answers that are lost, answers that are slow, and nobody who takes the ending of a task."""

from __future__ import annotations

import time
from collections.abc import Mapping

from scheduler import StoreUnreachable
from scheduler.client.submission import SUBMIT_PAUSES_SECONDS
from scheduler.store.scripts import CLAIM, COMMIT, SUBMIT
from tests.acceptance.ports import free_port

from .load import Load, Plan, random_plan, submit
from .network import SLOTS, everywhere, under_way
from .proxy import Proxy
from .rig import HERE, KINDS, Rig
from .rows import RigFactory, Verdict, row

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
        asked = 1 if number else 1 + len(SUBMIT_PAUSES_SECONDS)
        loss = proxy.cutreply(asked, SUBMIT.sha.encode())
        if asked > 1:  # the client of a large graph looks for the run first, and would find it
            proxy.cutreply(asked - 1, b"\r\nHGET\r\n")
        try:
            load = submit(client, plan, 300, key=key)
            if number == 0:
                wrong.append("the client never gave up: the row shows less than it says")
        except StoreUnreachable:
            proxy.clear()
            load = submit(client, plan, 300, key=key)
        lost["submit"] += loss.cut
        if submit(client, plan, 300, key=key).id != load.id:
            wrong.append(f"a repeated submit of {key} made another run")
        loads.append(load)
    if len(client.runs()) != len(loads):
        wrong.append(f"{len(loads)} graphs were submitted and {len(client.runs())} runs are there")
    return loads, wrong


# -- 15: slow ---------------------------------------------------------------------------------------------

P99_SECONDS = 25 * 0.4
"""From ready to begun. Six round trips of 0.4 s are on the way (commit, publish, kombu's own, the claim), and a worker
that is busy with the messages and acknowledgements of two others takes some six for each before it looks again."""


@row(15, "slow Redis: 200 +- 100 ms each way, 200 kB/s")
def row_15(rigs: RigFactory, seed: int) -> Verdict:
    """Everything takes its round trips and no more; a lease of 5 s holds."""
    with rigs(proxied=KINDS) as rig:
        rig.start_all()
        everywhere(rig, "delay", 200, 100)
        everywhere(rig, "rate", 200_000)
        chains = submit(rig.client(), chains_plan(), 300)
        rig.wait([chains], 120)
        wide = submit(rig.client(), random_plan(rig.random, 60), 300)
        rig.wait([wide], 120)
        everywhere(rig, "clear")
        waits = sorted(
            (it.claimed_at_ms - it.ready_at_ms) / 1000
            for view in rig.client().run(chains.id).nodes()
            for it in view.tries
            if it.claimed_at_ms
        )
        p99 = waits[int(len(waits) * 0.99)] if waits else 0.0
        verdict = rig.judge([chains, wide], most_duplicates=0, notes={"p99 ready to begun": p99})
        verdict.must(p99 <= P99_SECONDS, f"p99 from ready to begun is {p99} s")
        return verdict


def chains_plan() -> Plan:
    """Two nodes for each worker at one time: kombu takes messages one by one, so a wide graph would measure kombu."""
    upstream: dict[str, tuple[str, ...]] = {
        f"c{chain}-{link}": (f"c{chain}-{link - 1}",) if link else () for chain in range(6) for link in range(8)
    }
    return Plan(upstream, frozenset(), dict.fromkeys(upstream, 50.0))


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
            under_way(rig, rig.nodes // 4 * (at + 1))
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
