"""One section of the report each: what is measured without Celery. Values by name are what --json writes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from . import sampler, shapes
from .alone import Cost, alone
from .figures import Spread, ratio, shown, table
from .place import Place, Usage

ECHO_WORKERS = 2
BIG = shapes.layers(100, 1000)
GROWING = ((shapes.layers(10, 100), 20), (shapes.layers(100, 100), 2), (shapes.layers(1000, 100), 1))
"""Graphs that differ in length only, and how often each is run in one turn."""


@dataclass(frozen=True, slots=True)
class Section:
    """What a part of the benchmarks found: text for people, and values by name."""

    title: str
    text: str
    values: dict[str, float] = field(default_factory=dict)


def echo(place: Place, repeats: int) -> Section:
    """100,000 nodes through one scheduler with echo workers, a fresh scheduler each time."""
    costs = []
    for _ in range(repeats):
        with alone(place, ECHO_WORKERS) as it:
            costs.append(it.run(BIG))
    rate, ours, redis, kept, memory, submit = _spreads(costs)
    rows = [
        ["nodes a second, stored to ended", str(rate), ">= 12,000"],
        ["scheduler, us of CPU a node", str(ours), "<= 60"],
        ["Redis, us of CPU a node", str(redis), ""],
        ["Redis, bytes a node when the run has ended", str(kept), "<= 500"],
        ["scheduler, bytes a node while it runs (most)", str(memory), "<= 1,000"],
        ["Client.submit, seconds", str(submit), ""],
    ]
    values = {
        "echo_nodes_per_second": rate.middle,
        "scheduler_cpu_us_per_node": ours.middle,
        "redis_us_per_node": redis.middle,
        "redis_bytes_per_node": kept.middle,
        "scheduler_bytes_per_node": memory.middle,
        "submit_100k_seconds": submit.middle,
    }
    return Section(f"Scheduler alone: {BIG.name}, {ECHO_WORKERS} echo workers", _table(rows), values)


def growth(place: Place, repeats: int) -> Section:
    """CPU per node of graphs of 1,000 to 100,000 nodes, all 100 wide, in turns."""
    costs: list[list[Cost]] = [[] for _ in GROWING]
    with alone(place, ECHO_WORKERS) as it:
        for _ in range(repeats):
            for (shape, times), found in zip(GROWING, costs, strict=True):
                found.append(it.run(shape, times))
    grows = ratio([cost.scheduler_us for cost in costs[-1]], [cost.scheduler_us for cost in costs[0]])
    rows = []
    for (shape, _), found in zip(GROWING, costs, strict=True):
        rate, ours, redis, *_ = _spreads(found)
        rows.append([f"{len(shape):,} nodes", str(ours), str(redis), str(rate)])
    head = ["size, all 100 wide", "scheduler us/node", "Redis us/node", "nodes/s"]
    text = f"{table(head, rows)}\n\nlargest by smallest, scheduler CPU a node: {grows}   (wanted 0.8 to 1.2)"
    return Section("Growth with the size of the graph", text, {"growth_1k_100k": grows.middle})


def idle(place: Place, seconds: float) -> Section:
    """What one scheduler process costs when there is nothing to do."""
    place.clear()
    child = place.start_scheduler()
    try:
        time.sleep(5.0)  # shards taken and looked through, contracts read
        calls = _calls(place)
        before, cpu, start = place.usage(), child.cpu_seconds(), time.perf_counter()
        time.sleep(seconds)  # what is measured is an idle scheduler
        cpu, after, passed = child.cpu_seconds() - cpu, place.usage(), time.perf_counter() - start
        calls = {name: count - calls.get(name, 0) for name, count in _calls(place).items()}
        child.check()
    finally:
        place.stop(child)
    commands = _commands(before, after)
    rows = [
        ["CPU, %", shown(cpu / passed * 100), "< 1"],
        ["Redis commands a second", shown(commands / passed), "<= 5"],
        ["Redis CPU, %", shown((after.cpu_seconds - before.cpu_seconds) / passed * 100), ""],
    ]
    most = ", ".join(
        f"{name} {count / passed:.2g}" for name, count in sorted(calls.items(), key=lambda it: -it[1]) if count
    )
    text = f"{_table(rows)}\n\ncommands a second, those inside scripts and of this probe included: {most}"
    values = {"idle_cpu_percent": cpu / passed * 100, "idle_commands_per_second": commands / passed}
    return Section(f"Idle: one scheduler, {shown(passed)} s", text, values)


def profile(place: Place, us_per_node: float | None) -> Section:
    """Where the scheduler's CPU goes, by room of the loop, while 100,000 nodes run."""
    samples = place.home / "samples.json"
    with alone(place, ECHO_WORKERS, "--samples", str(samples)) as it:
        cost = it.run(BIG)
    us = us_per_node or cost.scheduler_us
    found = sampler.rooms(sampler.read(samples))
    total = sum(sum(counts.values()) for counts in found.values())
    rows = []
    for room, counts in found.items():
        share = sum(counts.values()) / total
        rows.append([room, f"{share:.1%}", f"{share * us:.1f}"])
        rows += [
            [f"    {what}", f"{n / total:.1%}", f"{n / total * us:.1f}"]
            for what, n in counts.most_common(6)
            if n / total >= 0.005
        ]
    head = ["room: function > what it calls", "share", "us/node"]
    return Section(f"Where {shown(us)} us a node go ({total:,} samples)", table(head, rows))


def _spreads(costs: list[Cost]) -> tuple[Spread, ...]:
    fields = ("rate", "scheduler_us", "redis_us", "redis_bytes", "scheduler_bytes", "submit_seconds")
    return tuple(Spread.of(getattr(cost, name) for cost in costs) for name in fields)


def _table(rows: list[list[str]]) -> str:
    return table(["what", "median (min-max)", "wanted"], rows)


def _commands(before: Usage, after: Usage) -> int:
    """Commands between two accounts, less the one that the probe itself sent: the first account."""
    return after.commands - before.commands - 1


def _calls(place: Place) -> dict[str, int]:
    """Command -> how often it was called since the server started."""
    stats = place.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(it["calls"]) for name, it in stats.items()}
