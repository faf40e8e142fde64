"""Demos of which way a run goes: each item of an example is a run, and its path is told with what decided it.

Believes the run's log and its explanations only. What is asked of a person is asked at the terminal; where there is
none, the rule that stands beside the example's data answers after a moment.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import click

from ..errors import CeleriacError, NodeFailed, WaitTimeout, escaped
from .output import Output, json_text, note

if TYPE_CHECKING:
    from ..client import Client, Event, RunHandle
    from ..graph import Graph
    from .demonstration import Demonstration

MOMENT_SECONDS = 0.5
SILENT_SECONDS = 60.0
"""A run that has nothing to say for so long is given up."""
_LOOK_SECONDS = 1.0
_ENDS = {"succeed": "", "decide": "", "resolve": "", "fail": " failed", "expire": " failed", "refuse": " failed"}
"""Move that ends a node on the path -> how the path tells it."""
_TELLING = ("decide", "retry", "resolve", "fail", "expire", "refuse")
"""Moves whose reasons say why a run went that way."""


class Ending(Protocol):
    """How a run must end, as the example has it (tasks/examples/items.py)."""

    @property
    def path(self) -> tuple[str, ...]:
        """Its nodes in the order in which they ended, in the words of `path_of`."""
        ...

    @property
    def output(self) -> Mapping[str, Any]:
        """What the last of them must have given, or a part of it."""
        ...


class Item(Protocol):
    """One run of an example, as the example has it (tasks/examples/items.py)."""

    @property
    def name(self) -> str:
        """To tell it from the others."""
        ...

    @property
    def ends(self) -> Mapping[str, Ending]:
        """What a person has chosen, or "" -> how it must end then."""
        ...

    @property
    def answer(self) -> str:
        """The choice when nobody is at the terminal."""
        ...

    @property
    def rule(self) -> str:
        """Why that."""
        ...


class Example(Protocol):
    """An example's module. It may have EVENTS: node -> name of the event that its end is."""

    __name__: str
    ITEMS: Sequence[Any]

    def graph_of(self, item: Any, place: Path, /) -> Graph:
        """The graph of one item; what it writes goes into the directory `place`."""
        ...


class Went(NamedTuple):
    """Which way the run of an item went.

    Attributes:
        choice: what a person has decided; "" when nobody was asked.
        why: what decided it, in words.
        events: (name, node) of the example's own events.
    """

    item: str
    run: str
    state: str
    choice: str
    path: tuple[str, ...]
    output: Any
    why: tuple[str, ...]
    events: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


def show_paths(stage: Demonstration, example: Example, name: str, out: Output) -> bool:
    """Runs the items one after the other; whether each went the way that is recorded beside it."""
    from ..client import Client

    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=stage.home))  # whatever the last demo in `home` has left
    with Client(settings=stage.settings) as client:
        graphs = [(item, example.graph_of(item, place)) for item in example.ITEMS]
        found = [_Going(stage, client, example, item, out).went(graph) for item, graph in graphs]
    problems = [f"{it.item}: {problem}" for it in found for problem in it.problems]
    if out.json:
        items = [it._asdict() for it in found]
        seconds = round(stage.ready_seconds, 2)
        head = {"demo": name, "right": not problems, "problems": problems, "ready_seconds": seconds}
        out.document(head | {"items": items})
    else:
        out.table(["item", "run", "path"], [[it.item, it.run, " > ".join(it.path)] for it in found])
        out.table(["item", "why"], [[it.item, why] for it in found for why in it.why])
    if not problems:
        note(f"All {len(found)} runs went the way that is recorded beside the example.")
    for problem in problems:
        note(f"WRONG: {escaped(problem, 2_000)}")
    return not problems


class _Going:
    """One item on its way."""

    def __init__(self, stage: Demonstration, client: Client, example: Example, item: Item, out: Output) -> None:
        self._stage, self._client, self._item, self._out = stage, client, item, out
        self._names: Mapping[str, str] = getattr(example, "EVENTS", {})
        self._told: list[tuple[str, str]] = []
        self._choice = ""

    def went(self, graph: Graph) -> Went:
        """To its end."""
        run = self._client.submit(graph, labels={"item": self._item.name})
        events = []
        for event in self._follow(run):
            events.append(event)
            if event.node is not None and event.move == "park":
                self._ask(run, event.node)
            elif event.node is not None and event.node in self._names and _ENDS.get(event.move) == "":
                self._tell(event.node, run)
        outputs = run.results()
        path = path_of(events, outputs)
        last = next((it.node for it in reversed(events) if it.node in outputs), None)
        output = outputs.get(last) if last is not None else None
        state = run.state.value
        why = tuple(_reasons(run, events))
        problems = tuple(problems_of(self._item, self._choice, state, path, output))
        return Went(self._item.name, run.id, state, self._choice, path, output, why, tuple(self._told), problems)

    def _follow(self, run: RunHandle) -> Iterator[Event]:
        """What happens in the run, as it happens.

        Raises:
            CeleriacError: nothing does any more, or a process has ended.
        """
        after, heard = None, time.monotonic()
        while True:
            try:
                for event in run.events(after, timeout=_LOOK_SECONDS):
                    yield event
                    after, heard = event.id, time.monotonic()
            except WaitTimeout:
                self._stage.check()
                if time.monotonic() - heard > SILENT_SECONDS:
                    held = "; ".join(run.explain().needs)
                    raise CeleriacError(f"run {run.id} stands still for {SILENT_SECONDS:g} s: {held}") from None
            else:
                return

    def _tell(self, node: str, run: RunHandle) -> None:
        """One of the example's own events."""
        name = self._names[node]
        self._told.append((name, node))
        if not self._out.json:
            self._out.line(f"event\t{name}\t{escaped(self._item.name)}\t{json_text(run.get(node))}")

    def _ask(self, run: RunHandle, node: str) -> None:
        """What the node asks, at the terminal or by the rule beside the data."""
        from .approvals import inputs_shown

        [asked] = [it for it in self._client.approvals() if (it.run, it.node) == (run.id, node)]
        if sys.stdin.isatty() and sys.stderr.isatty() and not self._out.json:
            note(f"\n{escaped(asked.question, 1_000)}")
            for name, value in inputs_shown(self._stage.runs, asked).items():
                note(f"  {escaped(name)}: {json_text(value)}")
            try:
                choice = click.prompt("Your answer", type=click.Choice(asked.choices), err=True)
            except click.Abort:
                raise KeyboardInterrupt from None
            run.answer(node, choice)
        else:
            time.sleep(MOMENT_SECONDS)
            choice = self._item.answer or asked.choices[-1]  # the last one when nobody should be asked, which is told
            run.answer(node, choice, by="demo", comment=f"nobody is at the terminal; {self._item.rule}")
        self._choice = choice


def path_of(events: Iterable[Event], outputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes that ended by themselves, in their order, with what was chosen and which attempt it was."""
    path = []
    for it in events:
        if it.node is None or it.move not in _ENDS:
            continue
        said = outputs.get(it.node)
        chosen = said.get("branch" if it.move == "decide" else "choice") if isinstance(said, dict) else None
        words = f": {chosen}" if it.move in ("decide", "resolve") else f" #{it.attempt}" if it.attempt > 1 else ""
        path.append(f"{it.node}{words}{_ENDS[it.move]}")
    return tuple(path)


def _reasons(run: RunHandle, events: Sequence[Event]) -> Iterator[str]:
    """What decided the way, in the words of the run's explanations, with the error of a node that failed for good."""
    telling = dict.fromkeys(it.node for it in events if it.node is not None and it.move in _TELLING)
    for node in telling:
        for step in run.explain(node).steps:
            if step.move in _TELLING:
                number = f" #{step.attempt}" if step.attempt else ""
                yield f"{node}{number} {step.move}: {step.why}"
                if _ENDS.get(step.move):
                    yield f"{node}{number} {step.move}: {_error_of(run, node)}"


def _error_of(run: RunHandle, node: str) -> str:
    try:
        run.get(node)
    except NodeFailed as failed:
        return failed.remote_message
    return ""


def problems_of(item: Item, choice: str, state: str, path: tuple[str, ...], output: Any) -> Iterator[str]:
    """What is not as it is recorded."""
    wanted = item.ends.get(choice)
    if state != "succeeded":
        yield f"the run ended {state}, expected succeeded"
    if wanted is None:
        yield f"a person's choice is {choice!r}, expected one of {sorted(item.ends)}"
        return
    if path != wanted.path:
        yield f"it went {' > '.join(path)}, expected {' > '.join(wanted.path)}"
    found = output if isinstance(output, dict) else {}
    for name, value in wanted.output.items():
        if found.get(name) != value:
            yield f"{name} is {found.get(name)!r}, expected {value!r}"
