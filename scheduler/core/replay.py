"""Replay: a log is decided again, event by event, and every decision compared with the recorded one.

Pure. Begins with the graph alone. The event behind each decision is the one that the log tells of, else it follows from
the lines themselves (derived.py); decide answers it, and its moves must be the next lines: node, move, attempt, cause
and reason, and the run's state. The first that is not is a `Difference`. At the end the nodes must stand where their
records say.

A scheduler that died forgets what follows from the rest: nodes that are ready are pending for the next owner, who asks
every rule again. So when nothing else fits, the run is loaded again from the records that it would have, as that owner
did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import IllegalMove
from .decide import decide
from .derived import candidates
from .events import Decision, Event, Opened, Reported
from .evolve import evolve
from .guards import Facts
from .history import GOES_ON, REWOUND, Line
from .recorded import event_of
from .run import Run
from .states import MoveKind, NodeState

Load = Callable[[Iterable[tuple[int, bytes]]], Run]
"""The run of the graph with these records, of which nothing else has happened."""
FactsOf = Callable[[int, int], Facts | None]
"""(node, epoch) -> what expressions read of its stored output, or None when it is not there."""

Told = tuple[int, str, int, str]
"""node, word, cause, why."""


class Difference(NamedTuple):
    """Where a replay goes another way.

    Attributes:
        id: of the line, or "record of node N".
        event: what was decided, in words.
        recorded, replayed: both sides, a line each.
    """

    id: str
    event: str
    recorded: list[str]
    replayed: list[str]


@dataclass(slots=True)
class Replay:
    """What a replay found.

    Attributes:
        run: as it stands behind the last decision that was the same.
        decisions: how many were the same.  lines: how many lines they are, notes included.
        reloads: how often a new owner took the run over, as far as that shows.
        difference: the first; None when there is none.
    """

    run: Run
    decisions: int = 0
    lines: int = 0
    reloads: int = 0
    difference: Difference | None = None


class Replayer:
    """One replay under way.

    Args:
        load: makes the run.
        lines: the log, whole.
        facts_of: for outputs whose facts the log does not tell.
    """

    def __init__(self, load: Load, lines: Sequence[Line], facts_of: FactsOf) -> None:
        self._load = load
        self._lines = lines
        self._facts_of = facts_of
        self.found = Replay(load(()))
        self._unrecorded: dict[int, bytes | None] = {}
        """Nodes that became ready since they were last recorded -> that record."""

    def replay(self, records: Mapping[int, bytes] | None = None) -> Replay:
        """Decide all of it again.

        Args:
            records: of the nodes, as they stand at the end of the log; None compares none.
        """
        at, found = 0, self.found
        while at < len(self._lines):
            it = self._lines[at]
            if it.word == REWOUND and it.node < 0:
                found.run.floor = int((it.told or {}).get("floor", found.run.floor))
            if not (it.is_move or it.is_of_run):
                self._heed(at)
                at += 1
                found.lines = at
                continue
            length = self._step(at)
            if not length:
                return found
            at += length
            found.lines = at
            found.decisions += 1
        if records is not None:
            found.difference = self._compare(records)
        return found

    def _heed(self, at: int) -> None:
        """A line that is no move may tell of an event that changed more than moves say: a signal was kept, say."""
        for event in self._events(self.found.run, at) if "event" in (self._lines[at].told or {}) else ():
            decision = decide(self.found.run, event, self._now(at))
            if not decision.stale and not told_of(decision):
                evolve(self.found.run, decision, self._now(at))

    def _step(self, at: int) -> int:
        """One decision: how many lines it is, 0 when it differs."""
        found = self.found
        tried: list[tuple[Event, Decision, list[Told]]] = []
        best: tuple[Run, Event, Decision, list[Told]] | None = None
        for again in (False, True):
            if best is not None and type(best[1]) is not Opened:  # only an owner that loads the run opens it
                break
            run = self._reloaded() if again else found.run
            for event, decision in self._decided(run, at):
                told = told_of(decision)
                tried.append((event, decision, told))
                if told and told == [self._told(it) for it in self._lines[at : at + len(told)]]:
                    if best is None or len(told) > len(best[3]):
                        best = run, event, decision, told
                    break
        if best is None:
            found.difference = self._difference(at, tried)
            return 0
        run, event, decision, told = best
        if run is not found.run:
            found.run, found.reloads = run, found.reloads + 1
            self._unrecorded.clear()
        return self._take(at, event, decision, told)

    def _decided(self, run: Run, at: int) -> Iterator[tuple[Event, Decision]]:
        """What may have happened at a line, and what follows from it. Versions before asked all that wait for a node at
        once, so that comes first where it is more: it is the same in the end.
        """
        for event in self._events(run, at):
            decision = decide(run, event, self._now(at))
            if decision.rest:
                at_once, run.at_once = run.at_once, run.n
                whole = decide(run, event, self._now(at))
                run.at_once = at_once
                yield event, whole
            yield event, decision

    def _events(self, run: Run, at: int) -> Iterable[Event]:
        told = self._lines[at].told
        if told is None or "event" not in told:
            return candidates(run, self._lines, at, self._facts_of)
        try:
            event = event_of(told)
        except ValueError:
            return ()
        if type(event) is Reported and event.facts is None and event.end == "succeeded":
            event = event._replace(facts=self._facts_of(event.node, event.epoch))
        return (event,)

    def _now(self, at: int) -> int:
        it = self._lines[at]
        return int((it.told or {}).get("now", it.at_ms))

    def _take(self, at: int, event: Event, decision: Decision, told: list[Told]) -> int:
        """Apply a decision that is the recorded one, and compare the numbers of its attempts."""
        run = self.found.run
        for move in decision.moves:
            if move.kind == MoveKind.READY:
                self._unrecorded[move.node] = run.record(move.node).encode() if run.epoch[move.node] > 1 else None
            else:
                self._unrecorded.pop(move.node, None)
        try:
            evolve(run, decision, self._now(at))
        except IllegalMove as broken:
            self.found.difference = Difference(self._lines[at].id, _words(event), self._shown(at, told), [str(broken)])
            return 0
        for number, move in enumerate(decision.moves):
            attempt = event.attempt if move.kind == MoveKind.LOSE else run.attempt[move.node]  # type: ignore[union-attr]
            recorded = self._lines[at + number]
            if recorded.attempt != attempt:
                shown = [f"{_line(self._told(recorded))}, attempt {it}" for it in (recorded.attempt, attempt)]
                self.found.difference = Difference(recorded.id, _words(event), shown[:1], shown[1:])
                return 0
        return len(told)

    def _reloaded(self) -> Run:
        """The run as the next owner loads it: what became ready and was not recorded is pending."""
        run = self.found.run
        records = []
        for node in range(run.n):
            record = self._unrecorded.get(node, b"")
            if record == b"" and (run.state[node] != NodeState.PENDING or run.epoch[node] > 1):
                record = run.record(node).encode()
            if record:
                records.append((node, record))
        again = self._load(records)
        again.at_once = run.at_once
        again.run_state, again.reason, again.deadline_at_ms = run.run_state, run.reason, run.deadline_at_ms
        again.floor, again.facts = run.floor, dict(run.facts)
        again.priority, again.acts = run.priority, list(run.acts)
        again.take_signals(run.signals.values())
        if run.policy is not None:
            again.take_policy(run.policy.record)
        return again

    def _difference(self, at: int, tried: Sequence[tuple[Event, Decision, list[Told]]]) -> Difference:
        """Both sides of what does not fit, by the attempt that came closest."""
        line = self._lines[at]
        if not tried:
            known = "an event that this version knows" if line.told else f"the event that led to {line.word!r}"
            return Difference(line.id, "", self._shown(at, [self._told(line)]), [f"nothing: {known} does not follow"])
        event, _, told = max(tried, key=lambda it: self._same(at, it[2]))
        same = self._same(at, told)
        there = self._lines[at + same] if at + same < len(self._lines) else None
        recorded = ["nothing more"] if there is None else [_line(self._told(there))]
        replayed = [_line(told[same])] if same < len(told) else ["nothing" if not told else "nothing more"]
        return Difference((there or line).id, _words(event), recorded, replayed)

    def _told(self, it: Line) -> Told:
        """A line as a decision's moves are told; who does the work, in which version and on which rung, none says."""
        run = self.found.run
        if it.word in _BARE and 0 <= it.node < run.n and run.profiles[run.profile[it.node]].may_be_done_by_others:
            return it.node, it.word, -1, ""
        told = "" if it.word == "dispatch" and (it.why == GOES_ON or _VERSION.fullmatch(it.why)) else it.why
        return it.node, it.word, it.cause, told

    def _same(self, at: int, told: Sequence[Told]) -> int:
        """How many of the lines from `at` on are as told."""
        count = 0
        for line, one in zip(self._lines[at : at + len(told)], told, strict=False):
            if self._told(line) != one:
                break
            count += 1
        return count

    def _shown(self, at: int, told: list[Told]) -> list[str]:
        return [_line(self._told(it)) for it in self._lines[at : at + max(len(told), 1)]]

    def _compare(self, records: Mapping[int, bytes]) -> Difference | None:
        """Nodes that stand elsewhere than their records say."""
        run = self.found.run
        stored = self._load(records.items())
        for node in range(run.n):
            if node in self._unrecorded and (node not in records or stored.state[node] == NodeState.PENDING):
                continue  # it became ready, which no record says
            mine, theirs = _standing(run, node), _standing(stored, node)
            if mine != theirs:
                return Difference(f"record of node {node}", "the end of the log", [theirs], [mine])
        return None


def _standing(run: Run, node: int) -> str:
    """All that decisions rest on of a node, in words."""
    counts = f"failures {run.failures[node]}, losses {run.losses[node]}"
    if run.state[node] in (NodeState.FAILED, NodeState.SUCCEEDED, NodeState.SKIPPED):
        counts += f", cause {run.cause.get(node, -1)}, closed to {list(run.closed.get(node, ()))}"
    return f"{NodeState(run.state[node]).word}, epoch {run.epoch[node]}, attempt {run.attempt[node]}, {counts}"


def told_of(decision: Decision) -> list[Told]:
    """A decision as the log writes it (service/batch.py), without the numbers of attempts."""
    found: list[Told] = []
    for node, kind, cause, why, _ in decision.moves:
        word = MoveKind(kind).word
        found.append((node, word, -1, "") if word in _BARE else (node, word, cause, _text(why)))
    if decision.run is not None:
        found.append((-1, decision.run.value, -1, _text(decision.why)))
    return found


_BARE = ("succeed", "dispatch")
_VERSION = re.compile(r"version .+ of .+", re.DOTALL)
"""What the log says of an attempt whose executor has another version than the run has recorded."""


def _text(why: str) -> str:
    """As the log's encoding leaves it."""
    return why.encode("utf-8", "replace").decode()


def _line(told: Told) -> str:
    node, word, cause, why = told
    where = "the run" if node < 0 else f"node {node}"
    return f"{where}: {word}{f', because of node {cause}' if cause >= 0 else ''}{f': {why}' if why else ''}"


def _words(event: Event) -> str:
    """An event for people."""
    fields: dict[str, Any] = event._asdict()
    shown = [f"{name} {fields[name]}" for name in ("node", "attempt", "end", "reason", "by", "first") if name in fields]
    return f"{type(event).__name__}({', '.join(shown)})"
