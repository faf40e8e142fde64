"""`celeriac demo swap`: a capability is bound to another provider while runs are in flight, and later nodes use it.

What `celeriac capabilities bind` does, with the counts before and after and the line of the audit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CeleriacError, escaped
from .output import Output, instant, note

if TYPE_CHECKING:
    from ..client import RunHandle
    from ..store.capabilities import Change
    from .demonstration import Demonstration

SECONDS = 60.0
_BY = "demo"


class Swapped(NamedTuple):
    """What one run made of it.

    Attributes:
        before: executor -> nodes that were sent before the change.  after: the same of those sent afterwards.
    """

    run: str
    state: str
    before: Counter[str]
    after: Counter[str]
    problems: tuple[str, ...]


def show_swap(stage: Demonstration, example: Any, name: str, out: Output) -> bool:
    """Binds, submits, binds anew, waits; whether later nodes, and those alone, went to the second provider."""
    from ..client import Client
    from ..store.capabilities import Capabilities

    store = Capabilities(stage.runs.client, stage.runs.namespace, stage.settings.capabilities)
    store.bind(example.CAPABILITY, example.FIRST, _BY, "what everybody uses")
    with Client(settings=stage.settings) as client:
        runs = [client.submit(example.graph(f"{number}")) for number in range(1, example.RUNS + 1)]
        note(f"{len(runs)} runs of {example.STEPS} steps each, {example.CAPABILITY} is done by {example.FIRST}")
        for run in runs:
            _until(stage, run, example.EARLY)
        store.bind(example.CAPABILITY, example.SECOND, _BY, "the first one is too dear")
        note(f"{example.CAPABILITY} is done by {example.SECOND} from now on; no process is started again")
        for run in runs:
            _until(stage, run, example.STEPS)
            run.wait(SECONDS)
        [change] = store.history(1)
        found = [_swapped(run, example, change) for run in runs]
    problems = [f"{it.run}: {problem}" for it in found for problem in it.problems]
    if (change.capability, change.executor, change.by) != (example.CAPABILITY, example.SECOND, _BY):
        problems.append(f"the newest change of the audit is {change}")
    if out.json:
        items = [it._asdict() for it in found]
        seconds = round(stage.ready_seconds, 2)
        head = {"demo": name, "right": not problems, "problems": problems, "ready_seconds": seconds}
        out.document(head | {"runs": items, "audit": change._asdict()})
    else:
        pair = (example.FIRST, example.SECOND)
        columns = ["run", *(f"{it}, before" for it in pair), *(f"{it}, after" for it in pair)]
        out.table(columns, [[it.run, *(it.before[x] for x in pair), *(it.after[x] for x in pair)] for it in found])
        out.facts(
            [
                (
                    "audit",
                    f"{instant(change.at_ms)} {change.capability} -> {change.executor}, {change.by}: {change.reason}",
                )
            ]
        )
    if not problems:
        note("Every later node went to the second provider; no graph was edited, no process started again.")
    for problem in problems:
        note(f"WRONG: {escaped(problem, 2_000)}")
    return not problems


def _until(stage: Demonstration, run: RunHandle, nodes: int) -> None:
    """Until so many nodes of a run have succeeded.

    Raises:
        CeleriacError: that takes too long, or a process has ended.
    """
    deadline = time.monotonic() + SECONDS
    while run.summary().progress.get("succeeded", 0) < nodes and not run.ready():
        stage.check()
        if time.monotonic() > deadline:
            raise CeleriacError(f"run {run.id} stands still: {'; '.join(run.explain().needs)}")
        time.sleep(0.05)


def _swapped(run: RunHandle, example: Any, change: Change) -> Swapped:
    """Who did the steps, by their outputs and by what the log says of each dispatch."""
    outputs = run.results()
    sent = [
        (it.node, it.at_ms, it.why) for it in run.events(follow=False) if it.node is not None and it.move == "dispatch"
    ]
    order = [str(outputs.get(node, {}).get("provider")) for node, _, _ in sent]
    before, after = Counter[str](), Counter[str]()
    for (_, at_ms, _), who in zip(sent, order, strict=True):
        (before if at_ms < change.at_ms else after)[who] += 1
    asked = {it.executor for it in run.nodes()}
    told = [why for _, _, why in sent]
    problems = tuple(_problems(run.state.value, order, told, before, after, example))
    if asked != {f"capability:{example.CAPABILITY}"}:
        problems += (f"its nodes ask for {sorted(asked)}",)
    return Swapped(run.id, run.state.value, before, after, problems)


def _problems(
    state: str, order: list[str], told: list[str], before: Counter[str], after: Counter[str], example: Any
) -> Iterator[str]:
    """What is not as it must be."""
    if state != "succeeded":
        yield f"it ended {state}, expected succeeded"
    if len(order) != example.STEPS:
        yield f"{len(order)} steps were sent, expected {example.STEPS}"
    if before[example.FIRST] < example.EARLY or before[example.SECOND]:
        yield f"before the change {dict(before)} were sent, expected {example.EARLY} or more to {example.FIRST} alone"
    if not after[example.SECOND]:
        yield f"no step went to {example.SECOND} after the change"
    if order != sorted(order, key=[example.FIRST, example.SECOND].index):
        yield f"a step went back to {example.FIRST}"
    for who, why in zip(order, told, strict=True):
        if f"executor {who}, bound by {_BY}" not in why:
            yield f"a step of {who} is told as {why!r}"
