"""A run in memory: compact arrays of nodes and edges, and what is known of each node.

Pure. Nodes are numbers, 0 <= node < n, in topological order. Some 100 to 400 bytes a node without
payload. Built from the pages of the compiled graph (scheduler/compile.py) and the records that the store
keeps of nodes that have moved; a node without a record is pending.

A record is one short line, so that a hundred of them fit a compact hash in Redis:

    S|1|1|0|0|120,3,4,17,succeeded,celery@host|i
    |  | | | | |                               output: i inline, b blob, n none, and after a colon the nodes to which
    |  | | | | |                                 the edge is closed: "i:4,9"; or the node that caused a skip;
    |  | | | | |                                 of a node that a person skipped, or cancelled apart from its run: n;
    |  | | | | |                                 before the end: excused losses of this epoch, "" for none, and behind a
    |  | | | | |                                 "!" why the node is being cancelled while its attempt has a grace
    |  | | | | timeline, one entry per attempt joined by ";": ready (ms after the run's start), then the waits to
    |  | | | |   dispatched, claimed and ended (ms after the one before), how it ended, which worker;
    |  | | | |   ",,,,rewound,20" stands for twenty numbers left out, for the store may have lost such attempts;
    |  | | | |   "120,,,,parked," for a node that waits without a worker since then (waiting.py), with a number more
    |  | | | |   when it has ended, for so many ms later; and
    |  | | | |   "120,3,4,,handed over,celery@host" for one whose worker has begun a job that somebody outside will end
    |  | | | losses: attempts that infrastructure took
    |  | | failures: attempts that failed; below the first step of a retry ladder "4.1.3": the second step, to which
    |  | |   the node came when 3 had failed (ladder.py)
    |  | attempt, counted from 1 and on over epochs
    |  epoch: how often the node was opened, from 1
    state, one letter (states.LETTERS)
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any, NamedTuple

from .guards import Facts, Guards
from .ladder import Step, rung_words
from .mappers import Mapper, mappers_of
from .policies import RunPolicy
from .rules import Rule, parse_rule
from .states import FIRST_ENDED, IN_FLIGHT, LETTERS, NodeState, RunState
from .waits import Signal

FOUND_LATER = ("capability:", "tool:")
"""How names begin that stand for an executor which is found when the node is sent; wire.py has them too."""
GRAPH_FORMAT = 4
"""Of compiled graphs, the newest that is read. 2 has expressions, 3 waits, limits of time and ladders, 4 mappers."""
DEFAULT_TIMEOUT_MS = 3_600_000
FOLLOWED_AT_ONCE = 1000
"""Nodes downstream of one that ended which are asked for their rule in one decision, in runs without expressions. With
tens of thousands of them every other run would be held up for some tenths of a second."""
KEPT_TRIES = 200
"""Attempts of one node that its timeline tells of, some 50 bytes each; older ones stay counted and in the log."""
_TRYING = IN_FLIGHT | {NodeState.READY}


@dataclass(frozen=True, slots=True)
class Profile:
    """What many nodes have in common: executor ("" for a choice), class, rule, retry and time limits in ms.

    Attributes:
        alone: its attempts share no message with others.
        steps: of a retry ladder; without any the node is simply tried again.
        never: kinds of error that end it at once.
        ways: for each step, how its attempts are run: this profile with the executor and limits of that step.
    """

    executor: str
    queue_class: str | None
    rule: Rule
    max_attempts: int = 3
    base_ms: int = 1000
    factor: float = 2.0
    cap_ms: int = 60_000
    max_losses: int = 5
    timeout_ms: int | None = None
    soft_timeout_ms: int | None = None
    start_ms: int | None = None
    total_ms: int | None = None
    silence_ms: int | None = None
    expected_ms: int | None = None
    alone: bool = False
    executor_version: str | None = None
    steps: tuple[Step, ...] = ()
    never: frozenset[str] = frozenset()
    ways: tuple[Profile, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether time may be over for its nodes before or between their attempts."""
        return self.start_ms is not None or self.total_ms is not None

    @property
    def may_be_done_by_others(self) -> bool:
        """Whether its executor is found at dispatch: by a retry ladder, a capability or a tool."""
        return bool(self.steps) or self.executor.startswith(FOUND_LATER)

    @property
    def asks(self) -> bool:
        """Whether a person may be asked what becomes of its nodes."""
        return any(step.escalates for step in self.steps)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Profile:
        """Read a profile of a compiled graph; fields of later versions are ignored."""
        known = {name: record[name] for name in _PLAIN_FIELDS if name in record}
        it = cls(rule=parse_rule(record.get("rule", "all_success")), never=frozenset(record.get("never", ())), **known)
        if "steps" not in record:
            return it
        ways, steps = [it], tuple(map(Step.from_record, record["steps"]))
        for step in steps:
            ways.append(it._by(step) if step.executor else ways[-1])
        return replace(it, steps=steps, ways=tuple(ways[1:]))

    def _by(self, step: Step) -> Profile:
        """The same with the executor of a step."""
        return replace(
            self,
            executor=step.executor,
            expected_ms=None,
            executor_version=None,
            queue_class=step.queue_class,
            timeout_ms=step.timeout_ms,
            soft_timeout_ms=step.soft_timeout_ms,
        )


_PLAIN_FIELDS = tuple(it.name for it in fields(Profile) if it.name not in ("rule", "steps", "never", "ways"))


class Try(NamedTuple):
    """One attempt on a node's timeline. Instants in ms since 1970, 0 when it did not come to that."""

    attempt: int
    ready_at_ms: int
    dispatched_at_ms: int
    claimed_at_ms: int
    ended_at_ms: int
    end: str
    worker: str
    why: str = ""
    """Of a lost attempt: the type of its error."""


class Act(NamedTuple):
    """What somebody has asked of a run, and got.

    Attributes:
        at_ms: when it was decided, by Redis, ms since 1970.
        verb: cancel, skip, complete, rerun, deadline, priority, pause, resume, retry.
        by, reason: who asked and why; "" when not said.
        number: of the request, 0 for none; the same number again is the same request.
        nodes: how many it was about, 0 for the run as a whole.  what: the first of their keys, or a value.
    """

    at_ms: int
    verb: str
    by: str
    reason: str
    number: int = 0
    nodes: int = 0
    what: str = ""

    @classmethod
    def from_record(cls, record: object) -> Act:
        """Read one as the store keeps it: a list, of which later versions may have made a longer one."""
        at_ms, verb, by, reason, number, nodes, what = record[:7]  # type: ignore[index]  # a list, else it raises
        return cls(int(at_ms), str(verb), str(by), str(reason), int(number), int(nodes), str(what))


AGAIN = "+"
"""Behind the number of a completion by hand in a timeline: the node had ended before, so nodes after it were opened."""
KEPT_ACTS = 50
"""Of one run; all of them stand in its log."""
ACT_REASON = 500
"""Characters of a reason that an Act keeps; the log has it whole."""
MAX_WORKER = 200
"""Characters of a worker's name that a timeline keeps."""

SMALL_PAGE_BYTES = 4096
STEP = 2000
"""Nodes or records of one step of loading."""
_UNSAFE = re.compile(r"[|;\ud800-\udfff]")
"""What would break a record, should a worker's name hold it: its separators, and what UTF-8 cannot carry."""

REGION = "region"
"""The label that says to which region a node belongs; "prices/eu" is a region inside "prices"."""
LEFT_OUT = ",,,,rewound,"
"""How an entry of a timeline begins that stands for numbers which no attempt got; then how many."""
UNCLAIMED_AT_MOST = 8
PARKED, HANDED = "parked", "handed over"
"""How an entry of a timeline ends whose node waits."""

Template = str | list[Any]
"""Inputs as they will stand in the message: text, or text and references in turn: [node, path, "output" | "error"], and
behind them the name of the mapper that the value goes through, if it does."""


@dataclass(slots=True)
class Run:
    """One execution of a graph.

    Attributes:
        keys: node -> the user's name for it.
        up, down: edges, as concatenated neighbour lists; up_at and down_at say where each node's begin.
        inputs: node -> Template.  secrets: node -> where in [args, kwargs] its inputs name secrets.
        state: node -> NodeState.  attempt: node -> number of its newest try, counted on over epochs.
        epoch: node -> how often it was opened, from 1.  failures, losses, excused: node -> counts of this epoch.
        tally: four counts a node: upstream nodes succeeded, failed, upstream_failed or cancelled, skipped.
        ready_at, dispatched_at: node -> ms after created_at_ms, of the current attempt.
        past: node -> its ended attempts, as the record's timeline has them.
        ended: node -> the timeline entry of the attempt that ended it.
        cause: node -> the upstream node for whose sake it was skipped or upstream_failed.
        outputs: node -> raw JSON, as far as some node may still ask for it; a cache.
        guards: the graph's expressions; None when it has none.
        facts: node -> what they may see of it.  closed: node -> nodes to which its edge is closed.
        stopped: a stop condition is true: how the run ends, and why.
        leaving: node -> why it is being cancelled, while its attempt has a grace to end by itself.
        priority: -9 to 9; the nodes of a run with a higher one are sent first within their class.
        acts: what people have asked of it, the newest KEPT_ACTS.
        rungs: node -> where it stands on its retry ladder, once it has left the first step: the step, and how many
            attempts of its epoch had failed when it came there.
        step_inputs: (node, step of its ladder) -> Template, where they are not the node's own.  step_secrets: the same
            for where these name secrets.
        begun: numbers of requests whose commit a crash may have broken off; they come again.
        policy: that it has taken up; None for none.  declared: its profiles as the graph has them.
        mapped: names of the mappers that its references name.  mappers: what its policy says of them.
        at_once: of those that wait for a node so many are asked with its end.
        by_state: NodeState -> number of nodes.
        open: nodes that have not ended.  bad: sinks that ended otherwise than succeeded or skipped.
        floor: new attempts get higher numbers than this; above 0 only after the store lost commits of this run.
        renumbered_at_ms: for which of those losses that was.
        versions: executor -> its version when the run was submitted, of those that had one.
        keyed: its id follows from an idempotency key, so it may have been here before.
    """

    id: str
    name: str
    created_at_ms: int
    profiles: list[Profile]
    keys: list[str] = field(default_factory=list)
    profile: array[int] = field(default_factory=lambda: array("I"))
    up_at: array[int] = field(default_factory=lambda: array("I", [0]))
    up: array[int] = field(default_factory=lambda: array("I"))
    down_at: array[int] = field(default_factory=lambda: array("I"))
    down: array[int] = field(default_factory=lambda: array("I"))
    inputs: list[Template] = field(default_factory=list)
    labels: dict[int, dict[str, str]] = field(default_factory=dict)
    secrets: dict[int, list[list[str | int]]] = field(default_factory=dict)
    state: bytearray = field(default_factory=bytearray)
    attempt: array[int] = field(default_factory=lambda: array("I"))
    epoch: array[int] = field(default_factory=lambda: array("H"))
    failures: array[int] = field(default_factory=lambda: array("H"))
    losses: array[int] = field(default_factory=lambda: array("H"))
    excused: array[int] = field(default_factory=lambda: array("H"))
    tally: array[int] = field(default_factory=lambda: array("I"))
    ready_at: array[int] = field(default_factory=lambda: array("Q"))
    dispatched_at: array[int] = field(default_factory=lambda: array("Q"))
    past: dict[int, str] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    cause: dict[int, int] = field(default_factory=dict)
    output_kind: bytearray = field(default_factory=bytearray)
    outputs: dict[int, bytes] = field(default_factory=dict)
    readers: array[int] = field(default_factory=lambda: array("I"))
    run_state: RunState = RunState.RUNNING
    reason: str = ""
    deadline_at_ms: int | None = None
    by_state: list[int] = field(default_factory=list)
    open: int = 0
    bad: int = 0
    returns: int | None = None
    correlation_id: str | None = None
    floor: int = 0
    renumbered_at_ms: int = 0
    keyed: bool = False
    guards: Guards | None = None
    facts: dict[int, Facts] = field(default_factory=dict)
    closed: dict[int, tuple[int, ...]] = field(default_factory=dict)
    parked: dict[int, int] = field(default_factory=dict)
    handed: dict[int, tuple[int | None, str]] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    stopped: tuple[RunState, str] | None = None
    leaving: dict[int, str] = field(default_factory=dict)
    priority: int = 0
    acts: list[Act] = field(default_factory=list)
    rungs: dict[int, tuple[int, int]] = field(default_factory=dict)
    step_inputs: dict[tuple[int, int], Template] = field(default_factory=dict)
    step_secrets: dict[tuple[int, int], list[list[str | int]]] = field(default_factory=dict)
    begun: frozenset[int] = frozenset()
    policy: RunPolicy | None = None
    declared: Sequence[Mapping[str, Any]] = ()
    mapped: tuple[str, ...] = ()
    mappers: dict[str, Mapper] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    at_once: int = FOLLOWED_AT_ONCE

    @property
    def n(self) -> int:
        """How many nodes."""
        return len(self.keys)

    def upstream(self, node: int) -> array[int]:
        """The nodes that `node` waits for."""
        return self.up[self.up_at[node] : self.up_at[node + 1]]

    def downstream(self, node: int) -> array[int]:
        """The nodes that wait for `node`."""
        return self.down[self.down_at[node] : self.down_at[node + 1]]

    def is_sink(self, node: int) -> bool:
        """Whether nothing waits for `node`: such nodes decide how the run ends."""
        return self.down_at[node] == self.down_at[node + 1]

    def counts(self, node: int) -> tuple[int, int, int, int, int]:
        """What a trigger rule sees: n upstream, succeeded, failed, upstream_failed or cancelled, skipped."""
        at = 4 * node
        s, f, u, k = self.tally[at : at + 4]
        return self.up_at[node + 1] - self.up_at[node], s, f, u, k

    def tally_by_state(self) -> dict[str, int]:
        """State word -> number of nodes; states without nodes are left out."""
        return {state.word: found for state, found in zip(NodeState, self.by_state, strict=True) if found}

    def take_policy(self, record: Mapping[str, Any]) -> None:
        """From now on this policy counts: how nodes are run, as far as it says that. O(profiles)."""
        self.policy = RunPolicy.from_record(record)
        self.mappers = mappers_of(record["mappers"])
        changed = (self.policy.changed(number, it) for number, it in enumerate(self.declared))
        self.profiles = [Profile.from_record(it) for it in changed]

    def leave_policy(self) -> None:
        """As if the run had taken up none."""
        self.policy, self.mappers = None, {}
        self.profiles = [Profile.from_record(it) for it in self.declared]

    @property
    def is_fresh(self) -> bool:
        """Whether nothing of it has been sent, ended or put off, so that it may be called new."""
        begun = self.n - self.by_state[NodeState.PENDING] - self.by_state[NodeState.READY]
        return not (begun or self.past or self.acts)

    def way(self, node: int) -> Profile:
        """How the current attempt of a node is run: as declared, or as the step of its ladder says."""
        profile = self.profiles[self.profile[node]]
        return profile.ways[self.rungs[node][0]] if self.rungs and node in self.rungs else profile

    def template(self, node: int) -> Template:
        """The inputs of its current attempt."""
        if self.rungs and node in self.rungs:
            return self.step_inputs.get((node, self.rungs[node][0]), self.inputs[node])
        return self.inputs[node]

    def secret_places(self, node: int) -> Sequence[list[str | int]]:
        """Where in [args, kwargs] these name secrets."""
        if node in self.rungs and (node, self.rungs[node][0]) in self.step_inputs:
            return self.step_secrets.get((node, self.rungs[node][0]), ())
        return self.secrets.get(node, ())

    def fallback_from(self, node: int) -> str:
        """The executor that was declared, when another one runs or ran the node in its place; else ""."""
        declared = self.profiles[self.profile[node]].executor
        return declared if node in self.rungs and self.way(node).executor != declared else ""

    def rung_words(self, node: int) -> str:
        """Where the node stands on its retry ladder, for its log; "" on the first step."""
        return rung_words(self.profiles[self.profile[node]], self.rungs[node]) if node in self.rungs else ""

    @classmethod
    def load(
        cls,
        run: str,
        header: Mapping[str, Any],
        pages: Iterable[bytes],
        records: Iterable[tuple[int, bytes]] = (),
        *,
        created_at_ms: int,
        policy: Mapping[str, Any] | None = None,
    ) -> Run:
        """A run from what the store keeps of it. O(n + m): 3 us and more a node.

        Args:
            run: its id.
            header: of the compiled graph.
            pages: of the compiled graph, zlib of JSON, in order.
            records: (node, record) for every node that has moved.
            created_at_ms: instant to which the records' timelines relate.
            policy: that it has taken up; None for none.
        """
        for found in cls.load_in_steps(run, header, pages, records, created_at_ms=created_at_ms, policy=policy):
            if found is not None:
                return found
        raise AssertionError("the last step gives the run")

    @classmethod
    def load_in_steps(
        cls,
        run: str,
        header: Mapping[str, Any],
        pages: Iterable[bytes],
        records: Iterable[tuple[int, bytes]] = (),
        *,
        created_at_ms: int,
        policy: Mapping[str, Any] | None = None,
    ) -> Iterator[Run | None]:
        """The same in steps of some milliseconds each, for who has other things to do: None, and last the run."""
        it = cls(run, header["name"], created_at_ms, [Profile.from_record(p) for p in header["profiles"]])
        it.declared, it.mapped = header["profiles"], tuple(header.get("mappers", ()))
        if policy is not None:
            it.take_policy(policy)
        it.returns = header.get("returns")
        if header.get("min_reader", 1) > GRAPH_FORMAT:
            raise ValueError(
                f"its graph has format {header['min_reader']}, and this version reads up to {GRAPH_FORMAT}"
            )
        guarded = []
        for raw in pages:
            page = _small_page(raw) if len(raw) <= SMALL_PAGE_BYTES else _page(raw)
            it._take_page(page)
            if "guards" in page:
                guarded.append(page["guards"])
            yield None
        limited = {number for number, it_ in enumerate(it.profiles) if it_.is_limited}
        asks = any(profile.asks for profile in it.profiles)
        if guarded or limited or asks or "stops" in header:
            it.guards = Guards.from_records(guarded, header.get("stops", ()), it.keys)
            it.guards.asks = asks
            it.guards.timed.update(node for node, profile in enumerate(it.profile) if profile in limited)
        yield from it._finish_edges()
        n = it.n
        it.state, it.output_kind = bytearray(n), bytearray(n)
        it.attempt = array("I", bytes(4 * n))
        it.epoch = array("H", [1]) * n
        it.failures, it.losses = array("H", bytes(2 * n)), array("H", bytes(2 * n))
        it.excused = array("H", bytes(2 * n))
        it.tally = array("I", bytes(16 * n))
        it.ready_at, it.dispatched_at = array("Q", bytes(8 * n)), array("Q", bytes(8 * n))
        it.open = n
        for number, (node, record) in enumerate(records, 1):
            it._take_record(node, record)
            if not number % STEP:
                yield None
        it.by_state = [it.state.count(state) for state in range(len(NodeState))]
        yield it

    def _take_page(self, page: Mapping[str, Any]) -> None:
        self.keys += page["keys"]
        self.profile.extend(page["profile"])
        end = len(self.up)
        for parents in page["up"]:
            self.up.extend(parents)
            end += len(parents)
            self.up_at.append(end)
        seen: dict[str, str] = {}
        for template in page["inputs"]:
            self.inputs.append(seen.setdefault(template, template) if type(template) is str else template)
        for node, labels in page.get("labels", {}).items():
            self.labels[int(node)] = labels
        for node, places in page.get("secrets", {}).items():
            self.secrets[int(node)] = places
        for node, steps in page.get("steps", {}).items():
            for step, (template, places) in steps.items():
                self.step_inputs[int(node), int(step)] = template
                if places:
                    self.step_secrets[int(node), int(step)] = places

    def _finish_edges(self) -> Iterator[None]:
        """Downstream lists and the number of readers of each output, from the upstream lists; in steps."""
        n = len(self.keys)
        width = [0] * (n + 1)
        for first in range(0, len(self.up), STEP):
            for parent in self.up[first : first + STEP]:
                width[parent + 1] += 1
            yield None
        width = list(accumulate(width))
        self.down_at = array("I", width)
        down = array("I", bytes(4 * len(self.up)))
        up, up_at = self.up, self.up_at
        for node in range(n):
            for at in range(up_at[node], up_at[node + 1]):
                parent = up[at]
                down[width[parent]] = node
                width[parent] += 1
                if not at % STEP:
                    yield None
            if not node % STEP:
                yield None
        self.down = down
        self.readers = array("I", bytes(4 * n))
        yield None
        for number, template in enumerate(chain(self.inputs, self.step_inputs.values()), 1):
            if type(template) is list:
                for node in references(template):
                    self.readers[node] += 1
            if not number % STEP:
                yield None

    def _take_record(self, node: int, raw: bytes) -> None:
        letter, epoch, attempt, failures, losses, timeline, last = raw.decode().split("|", 6)
        state = LETTERS.index(letter)
        self.state[node] = state
        self.epoch[node] = int(epoch)
        if "." in failures:
            failures, step, since = failures.split(".")
            self.rungs[node] = int(step), int(since)
        self.attempt[node], self.failures[node], self.losses[node] = int(attempt), int(failures), int(losses)
        tries = timeline.split(";") if timeline else []
        if state >= FIRST_ENDED:
            self.open -= 1
            if last[:1] in ("i", "b", "n"):
                self.output_kind[node] = ord(last[0])
                if len(last) > 2:
                    self.closed[node] = tuple(map(int, last[2:].split(",")))
            elif last:
                self.cause[node] = int(last)
            if tries:
                self.ended[node] = tries.pop()
            spread(self, node, state)
        elif last:
            excused, mark, why = last.partition("!")
            self.excused[node] = int(excused) if excused.isdecimal() else 0
            if mark:
                self.leaving[node] = why
        if state == NodeState.WAITING and tries:
            self._take_wait(node, tries)
        if state in _TRYING:
            ready, waited = tries.pop().split(",")[:2]
            self.ready_at[node] = int(ready)
            self.dispatched_at[node] = int(ready) + int(waited or 0)
        if tries:
            self.past[node] = ";".join(tries)

    def take_signals(self, signals: Iterable[Signal]) -> None:
        """Signals that the run has taken. One that has ended a wait of which no record knows ends none: a crash came
        between the two.
        """
        for signal in signals:
            if signal.taken is not None:
                node, epoch = signal.taken
                if self.state[node] < FIRST_ENDED and self.epoch[node] == epoch:
                    signal = signal._replace(taken=None)  # noqa: PLW2901  the same signal
            self.signals[signal.id] = signal

    def _take_wait(self, node: int, tries: list[str]) -> None:
        """A waiting node's last entry says whether it is parked or handed over; else it waits for its next try."""
        ready, waited, claimed, _, end, worker = tries[-1].split(",", 5)
        if end not in (PARKED, HANDED):
            return
        tries.pop()
        if end == PARKED:
            self.parked[node] = int(ready)
            return
        self.ready_at[node] = int(ready)
        self.dispatched_at[node] = int(ready) + int(waited)
        at = self.created_at_ms + self.dispatched_at[node] + int(claimed or 0)
        self.handed[node] = at if claimed else None, worker

    def _open_wait(self, node: int) -> str:
        """The entry of a waiting node that _take_wait reads; "" for one that waits for its next try."""
        if node in self.parked:
            return f"{self.parked[node]},,,,{PARKED},"
        if node in self.handed:
            entry = self.close_try(node, self.handed[node][0], 0, HANDED, self.handed[node][1])
            ready, waited, claimed, _, end, worker = entry.split(",", 5)
            return f"{ready},{waited},{claimed},,{end},{worker}"
        return ""

    def record(self, node: int) -> str:
        """What the store keeps of a node, as _take_record reads it."""
        state = self.state[node]
        past = self.past.get(node) if self.past else None
        if state >= FIRST_ENDED:
            now = self.ended.get(node, "")
            kind = self.output_kind[node]
            last = chr(kind) if kind else str(self.cause.get(node, ""))
            if self.closed and node in self.closed:
                last += f":{','.join(map(str, self.closed[node]))}"
        else:
            last = str(self.excused[node] or "")
            if self.leaving and node in self.leaving:
                last += f"!{self.leaving[node]}"
            if state in IN_FLIGHT:
                ready = self.ready_at[node]
                now = f"{ready},{self.dispatched_at[node] - ready}"
            elif state == NodeState.READY:
                now = f"{self.ready_at[node]},"
            elif state == NodeState.WAITING:
                now = self._open_wait(node)
            else:
                now = ""
        timeline = f"{past};{now}" if past and now else past or now
        failures: int | str = self.failures[node]
        if self.rungs and node in self.rungs:
            failures = f"{failures}.{self.rungs[node][0]}.{self.rungs[node][1]}"
        begin = f"{LETTERS[state]}|{self.epoch[node]}|{self.attempt[node]}|{failures}"
        return f"{begin}|{self.losses[node]}|{timeline}|{last}"

    def recall_end(self, node: int, raw: bytes) -> None:
        """The timeline entry of the attempt that ended a node, from its record, where memory has let go of it."""
        timeline = raw.decode().split("|", 6)[5]
        past = self.past.get(node, "")
        if node not in self.ended and timeline != past:
            self.ended[node] = timeline.rpartition(";")[2]

    def attempt_id(self, shard: int, node: int) -> str:
        """Text form of the node's newest attempt, as wire.AttemptId has it."""
        return f"{shard}.{self.id}.{node}.{self.epoch[node]}.{self.attempt[node]}"

    def close_try(self, node: int, claimed_at_ms: int | None, ended_at_ms: int, end: str, worker: str) -> str:
        """The current attempt as an entry of the timeline: see the record in the module's docstring.

        Args:
            end: how it ended; of a lost one with the type of its error, "lost WorkerLostError".
        """
        worker = worker[:MAX_WORKER]
        ready, dispatched = self.ready_at[node], self.dispatched_at[node]
        ended = max(ended_at_ms - self.created_at_ms, dispatched)
        if not worker.isascii() or "|" in worker or ";" in worker:
            worker = _UNSAFE.sub("?", worker)
        if claimed_at_ms is None:
            return f"{ready},{dispatched - ready},,{ended - dispatched},{end},{worker}"
        claimed = claimed_at_ms - self.created_at_ms
        if not dispatched <= claimed <= ended:
            claimed = dispatched if claimed < dispatched else ended
        return f"{ready},{dispatched - ready},{claimed - dispatched},{ended - claimed},{end},{worker}"

    def keep_try(self, node: int, entry: str) -> None:
        """An ended attempt onto the timeline, which never grows beyond the newest KEPT_TRIES."""
        past = self.past.get(node)
        if past is None:
            self.past[node] = entry
            return
        if past.count(";") >= KEPT_TRIES - 2:  # one more is on its way
            past = ";".join(past.split(";")[2 - KEPT_TRIES :])
        self.past[node] = f"{past};{entry}"

    def tries(self, node: int) -> Iterator[Try]:
        """The node's attempts so far, the current one last; of more than KEPT_TRIES the newest."""
        timeline = self.record(node).split("|")[5]
        entries = [it for it in timeline.split(";") if it and f",{PARKED}," not in it]  # a wait is no attempt
        left_out = sum(int(it.removeprefix(LEFT_OUT)) - 1 for it in entries if it.startswith(LEFT_OUT))
        trimmed = len(entries) >= KEPT_TRIES - 1
        number = max(0, self.attempt[node] - len(entries) - left_out) if trimmed else 0
        for entry in entries:
            if entry.startswith(LEFT_OUT):
                number += int(entry.removeprefix(LEFT_OUT))
                continue
            number += 1
            yield _read_try(number, entry, self.created_at_ms)

    def number_attempt(self, node: int) -> None:
        """A new attempt of a node: one more than the last, and above the floor."""
        number = self.attempt[node]
        if number < self.floor:
            self.keep_try(node, f"{LEFT_OUT}{self.floor - number}")
            number = self.floor
        self.attempt[node] = number + 1

    def raise_floor(self, at_ms: int) -> None:
        """Commits of this run were lost: set the floor above every number that an attempt may have got in them.

        A node's attempts are bounded by its own limits of failures and losses, in the epoch it was in and in one more
        that a retry may have opened; some may never have been claimed, which takes half a minute each and more.
        """
        most = max((it.max_attempts + it.max_losses * max(len(it.steps), 1) for it in self.profiles), default=0)
        self.floor = max(self.floor, max(self.attempt, default=0)) + 2 * most + UNCLAIMED_AT_MOST
        self.renumbered_at_ms = at_ms


def _page(raw: bytes) -> dict[str, Any]:
    """A page of a compiled graph. What it holds is not to be changed."""
    page: dict[str, Any] = json.loads(zlib.decompress(raw))
    return page


_small_page = lru_cache(256)(_page)
"""The same, remembered: a small graph is often run many times."""


def _read_try(number: int, entry: str, created_at_ms: int) -> Try:
    parts = entry.split(",", 5) + [""] * 6
    at, instants = created_at_ms, []
    for part in parts[:4]:
        at += int(part or 0)
        instants.append(at if part else 0)
    ready, dispatched, claimed, ended = instants
    end, _, why = parts[4].partition(" ")
    return Try(number, ready, dispatched, claimed, ended, end, parts[5], why)


def work_of(run: Run, node: int) -> str:
    """What a node is, in a word for people: its executor's name, or that it is a choice, a timer, a signal..."""
    executor = run.way(node).executor
    if executor:
        return executor
    wait = None if run.guards is None else run.guards.waits.get(node)
    if wait is not None:
        return wait.kind
    return "race" if run.guards is not None and node in run.guards.races else "choice"


def references(template: Template) -> Iterator[int]:
    """The nodes that inputs refer to, once per reference."""
    if type(template) is list:
        for ref in template[1::2]:
            yield ref[0]


def spread(run: Run, node: int, state: int) -> None:
    """Count an ended node in the tallies of those that wait for it. O(out-edges)."""
    at = run.down_at[node]
    end = run.down_at[node + 1]
    place = COUNTED_AS[state]
    if at == end:
        run.bad += state not in GOOD_ENDS
    else:
        tally = run.tally
        shut = run.closed.get(node)
        for child in run.down[at:end]:
            tally[4 * child + (CLOSED if shut and child in shut else place)] += 1


def gather(run: Run, node: int, state: int) -> None:
    """Take an ended node that is opened again out of the tallies: spread, undone. O(out-edges)."""
    children = run.downstream(node)
    if not children:
        run.bad -= state not in GOOD_ENDS
    shut = run.closed.pop(node, ())
    for child in children:
        run.tally[4 * child + (CLOSED if child in shut else COUNTED_AS[state])] -= 1


COUNTED_AS: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 1, 3, 2, 2)
"""State -> which of a node's four counts it raises; cancelled counts as upstream_failed."""
CLOSED = 3
"""Which of them a closed edge raises: that of the skipped."""
GOOD_ENDS = (NodeState.SUCCEEDED, NodeState.SKIPPED)
