"""What one batch of decisions means for the store: gathered per shard, turned into one commit.

The loop calls `take` after each decision that was applied. A node is written once per batch, however
often it moved; a node that became ready is not written at all, for that follows from what is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.events import Decision, Event
from ..core.history import GOES_ON
from ..core.recorded import record_of
from ..core.run import Run
from ..core.states import ENDED_RUNS, FIRST_ENDED, TARGET, MoveKind, NodeState, RunState
from ..core.waiting import may_ask, wait_of
from ..store.approvals import question_record
from ..store.commits import NODES_PER_CALL, Commit
from ..store.dead import Dead
from ..store.keys import ShardKeys
from ..store.loading import signal_record
from ..wire import RunId

LOG_PAGE = 1000
_READY, _DISPATCH, _SUCCEED = int(MoveKind.READY), int(MoveKind.DISPATCH), int(MoveKind.SUCCEED)
_WORDS = tuple(kind.word for kind in MoveKind)
_K = MoveKind
_NO_QUEUES: Mapping[str, Sequence[bytes]] = {}
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WITH_ERROR = frozenset(map(int, (_K.FAIL, _K.RETRY, _K.LOSE, _K.CANCEL, _K.REFUSE, _K.SKIP, _K.EXPIRE, _K.ASK)))
_BEGIN_TO_ASK = frozenset(map(int, (_K.PARK, _K.ASK)))


Sent = tuple[int, str, str, int, str]
"""An attempt that goes out: node, id, state for the claim, instant by which a worker must have claimed it, and the rule
that has chosen its executor, "" for none."""


class Pages:
    """What a batch changes in one run."""

    __slots__ = (
        "acted",
        "asked",
        "changed",
        "deadline",
        "dirty",
        "log",
        "policy",
        "renumbered",
        "run",
        "signals",
        "told",
        "values",
    )

    def __init__(self, run: Run) -> None:
        self.run = run
        self.changed = self.renumbered = self.acted = self.deadline = self.policy = False
        self.dirty: dict[int, None] = {}
        self.values: dict[int, bytes] = {}
        self.log: list[list[Any]] = []
        self.signals: dict[str, bytes] = {}
        self.told: list[tuple[int, dict[str, Any]]] = []
        """Line of the log -> what a replay must know of the decision that begins there."""
        self.asked: list[int] = []


class Batch:
    """The changes of one batch in one shard.

    Attributes:
        ready: (run, node) that became ready and are to be admitted.
        over: attempts that ended.
        void: attempts that were begun for nothing; some may go out with this very batch, by a message.
        still: attempts whose lease was found to have ended -> their state then; a claim since then counts more.
        rest: (run, node that has ended) of nodes for which so many wait that not all of them were asked.
        ended: runs that ended.
        reopened: ended runs that go on.
        sent: attempts that go out with this batch.
        dead: what nobody could use, and nodes that used up their losses.
    """

    def __init__(self, keys: ShardKeys, epoch: str | int, now: int) -> None:
        self.keys = keys
        self.epoch = epoch
        self.now = now
        self.pages: dict[str, Pages] = {}
        self.ready: list[tuple[Run, int]] = []
        self.over: list[str] = []
        self.void: list[str] = []
        self.still: dict[str, str] = {}
        self.rest: list[tuple[str, int]] = []
        self.ended: list[Run] = []
        self.reopened: list[Run] = []
        self.sent: list[str] = []
        self.states: dict[str, str] = {}
        self.deadlines: dict[str, int] = {}
        self.timers: dict[str, int] = {}
        self.timers_done: list[str] = []
        self.blobs: list[str] = []
        self.consumed: list[bytes] = []
        self.dead: list[Dead] = []
        self.asked: dict[str, bytes] = {}
        self.asked_no_more: list[str] = []

    def page(self, run: Run) -> Pages:
        """The changes in one run."""
        found = self.pages.get(run.id)
        if found is None:
            found = self.pages[run.id] = Pages(run)
        return found

    def take(self, run: Run, decision: Decision, attempt: str = "", output: bytes | None = None) -> None:
        """Note a decision that has been applied to the run.

        Args:
            attempt: the attempt that the event was about, "" for none.
            output: raw JSON that came with a report.
        """
        page = self.page(run)
        log, dirty = page.log, page.dirty
        for move in decision.moves:
            node, kind, cause, why, error = move
            number = run.attempt[node]
            if kind == _SUCCEED:
                dirty[node] = None
                log.append([node, "succeed", number, -1, run.rung_words(node) if run.rungs else ""])
                if output is not None:
                    page.values[node] = output
                elif node in run.past:  # the error of an earlier try stands there
                    page.values[node] = b"null"
                elif number > 1:
                    page.values[node] = b"null"  # in place of the error of an earlier attempt
            elif kind == _READY:
                log.append([node, "ready", number, cause, why])
                self.ready.append((run, node))
            else:
                dirty[node] = None
                if kind == MoveKind.LOSE:  # the number is the next attempt's by now
                    number = int(attempt.rpartition(".")[2]) if attempt else number - 1
                log.append([node, _WORDS[kind], number, cause, why])
                if kind in _WITH_ERROR and error is not None:
                    page.values[node] = _error_bytes(error)
                    if kind == MoveKind.FAIL and error.get("kind") == "lost":
                        self.dead.append(self._dead_node(run, node, why, error))
                if TARGET[kind] == 1:
                    self.ready.append((run, node))
        if attempt and not decision.stale:
            self.over.append(attempt)
        self._follow(page, decision)

    def _dead_node(self, run: Run, node: int, why: str, error: dict[str, Any]) -> Dead:
        """A node whose attempts were lost until there were too many: perhaps it is what kills its workers."""
        facts = {
            "run": run.id,
            "node": run.keys[node],
            "number": node,
            "attempt": run.attempt_id(self.keys.shard, node),
            "executor": run.way(node).executor,
            "graph": run.name,
        }
        return Dead.made("node", why, facts, [(b"error", _error_bytes(error))])

    def _follow(self, page: Pages, decision: Decision) -> None:
        """What a decision brings besides moves: timers, and perhaps another state of the run."""
        run = page.run
        self.rest += ((run.id, node) for node in decision.rest)
        if decision.outputs:
            page.values.update(decision.outputs)
        for timer in decision.timers:
            self.timers[f"{run.id} {timer.name}"] = timer.due_at_ms
        for name in decision.cancelled:
            self.timers_done.append(f"{run.id} {name}")
        if decision.run is not None:
            page.changed = True
            page.log.append([-1, decision.run.value, 0, -1, decision.why])
            if decision.run in ENDED_RUNS:
                self.ended.append(run)
            elif decision.run is RunState.RUNNING and not decision.resumes:
                self.reopened.append(run)
        page.policy |= decision.policy is not None
        for note in decision.notes:
            page.log.append([note.node, note.word, 0, -1, note.why])
        if run.guards is not None and (run.guards.waits or run.guards.asks):
            self._waits(page, decision)
        if decision.act is not None or decision.told is not None:
            self._answer(page, decision)

    def _waits(self, page: Pages, decision: Decision) -> None:
        """What a decision means for who waits: signals that came, questions that people are asked."""
        run = page.run
        for id_ in (*(it.id for it in decision.signals), *(id_ for id_, _ in decision.taken)):
            page.signals[id_] = signal_record(run.signals[id_])
        for move in decision.moves:
            node = move.node
            name = f"{run.id} {node} {run.epoch[node] - (move.kind == MoveKind.REOPEN)}"
            wait = wait_of(run, node) if move.kind in _BEGIN_TO_ASK else None
            if wait is not None and wait.kind == "approval":
                self.asked[name] = question_record(run, node, wait)
            elif may_ask(run, node):
                self.asked_no_more.append(name)

    def _answer(self, page: Pages, decision: Decision) -> None:
        """What a request brings besides moves: a line for the log, and what is kept with the run."""
        if decision.told is not None:
            word, number, why = decision.told
            self.tell(page.run, word, number, why)
        if decision.act is not None:
            page.acted = True
            if decision.act.number:
                page.asked.append(decision.act.number)
            page.deadline |= bool(decision.deadline)
            page.dirty |= dict.fromkeys((*decision.apart, *decision.leaving))

    def tell(self, run: Run, word: str, number: int, why: str) -> None:
        """The answer to a request, in the run's log: its verb or "refused", its number, and why."""
        self.page(run).log.append([-1, word, number, -1, why])

    def queue_again(self, run: Run) -> None:
        """Every ready node of a run is to be admitted, those of this turn among them, each once."""
        others = [it for it in self.ready if it[0] is not run]
        self.ready = others + [(run, node) for node, state in enumerate(run.state) if state == NodeState.READY]

    def send(self, run: Run, sent: Iterable[Sent]) -> None:
        """Attempts of a run go out."""
        page, attempt = self.page(run), run.attempt
        for node, id_, state, claim_by_ms, why in sent:
            page.dirty[node] = None
            words = why
            if run.rungs and (rung := run.rung_words(node)):
                words = f"{rung}; {why}" if why else rung
            page.log.append([node, "dispatch", attempt[node], -1, words])
            self.sent.append(id_)
            self.states[id_] = state
            self.deadlines[id_] = claim_by_ms

    def goes_on(self, run: Run, node: int) -> None:
        """A next step of a chain: its worker has begun it with the report of the one before, and holds its claim."""
        page = self.page(run)
        page.dirty[node] = None
        page.log.append([node, "dispatch", run.attempt[node], -1, GOES_ON])

    def heard(self, run: Run, event: Event) -> None:
        """The event behind the lines that come next, for its moves do not say all of it; before `take`."""
        node = getattr(event, "node", -1)
        whole = run.guards is not None and node in run.guards.wanted
        page = self.page(run)
        page.told.append((len(page.log), record_of(event, self.now, whole=whole)))

    def note(self, run: Run, node: int, word: str, why: str) -> None:
        """A line for the run's log that is no move: a wait with its reason, a late report."""
        self.page(run).log.append([node, word, run.attempt[node], -1, why])

    def wait(self, run: Run, why: str, cause: str, queue_class: str, nodes: list[list[int]]) -> None:
        """A note that many nodes of a run wait for one class: spans of their numbers stand beside it."""
        page = self.page(run)
        page.told.append((len(page.log), {"cause": cause, "queue_class": queue_class, "nodes": nodes}))
        page.log.append([-1, "wait", 0, -1, why])

    def renumber(self, run: Run, why: str) -> None:
        """The run's shard went back in time: new attempts get numbers that none can have had, and its log says so."""
        page = self.page(run)
        page.renumbered = True
        page.told.append((len(page.log), {"floor": run.floor}))
        page.log.append([-1, "rewound", 0, -1, why])

    @property
    def outbox_batches(self) -> int:
        """How many entries the commit adds to the outbox."""
        return -(-len(self.sent) // NODES_PER_CALL)

    def commit(
        self, published: int, count: int | None = None, queues: Mapping[str, Sequence[bytes]] = _NO_QUEUES
    ) -> Commit:
        """All of it as one commit; `published` batches of the outbox have been sent, `count` commits made before.

        Args:
            queues: messages of all that goes out, for a broker that is the store's own Redis.
        """
        commit = Commit(self.keys, self.epoch, count)
        for run in self.reopened:
            commit.reopened(RunId(run.id), run.created_at_ms)
        for id_, page in self.pages.items():
            self._commit_run(commit, RunId(id_), page)
        commit.over([*self.over, *(it for it in self.void if it not in self.states)] if self.void else self.over)
        if self.still:
            commit.still(self.still)
        commit.out(self.states, self.deadlines)
        commit.timers(self.timers, self.timers_done)
        if self.asked or self.asked_no_more:
            commit.approvals(self.asked, self.asked_no_more)
        for attempt in self.blobs:
            commit.keep_blob(attempt)
        for run in self.ended:
            commit.ended(RunId(run.id), self.now)
        commit.outbox(self.sent, published)
        commit.push(queues)
        commit.dead(self.dead)
        commit.consumed(self.consumed)
        return commit

    def _commit_run(self, commit: Commit, run: RunId, page: Pages) -> None:
        """What changes in one run."""
        if page.dirty:
            self._records(commit, page)
        if page.dirty or page.changed or page.renumbered or page.acted or page.policy:
            commit.run(run, self._facts(page))
        if page.asked:
            commit.begun(run, page.asked)
        if page.deadline and page.run.deadline_at_ms is None:
            commit.no_deadline(run)
        if page.values:
            commit.values(run, page.values)
        if page.signals:
            commit.signals(run, page.signals)
        for at in range(0, len(page.log), LOG_PAGE):
            moves = _json(page.log[at : at + LOG_PAGE])
            told = _told(page, at) if page.told else None
            commit.log(run, moves.encode("utf-8", "replace"), page.run.n, told)

    def _records(self, commit: Commit, page: Pages) -> None:
        """Records of a run: those of ended nodes first, so that no cut shows a node begun before what it waited for."""
        run, state = page.run, page.run.state
        record = run.record
        ended = [node for node in page.dirty if state[node] >= FIRST_ENDED]
        commit.records(RunId(run.id), {node: record(node) for node in ended})
        commit.records(RunId(run.id), {node: record(node) for node in page.dirty if state[node] < FIRST_ENDED})
        for node in ended:
            run.ended.pop(node, None)

    def _facts(self, page: Pages) -> dict[str, str | int]:
        run = page.run
        facts: dict[str, str | int] = {"progress": _json(run.tally_by_state())}
        if page.changed:
            facts |= {"state": run.run_state.value, "reason": run.reason}
        if page.renumbered:
            facts |= {"attempts_above": run.floor, "renumbered_at_ms": run.renumbered_at_ms}
        if page.changed and run.run_state in ENDED_RUNS:
            facts["ended_at_ms"] = self.now
        if page.policy and run.policy is not None:
            facts["policy_version"] = run.policy.version
            facts["policy"] = _json(run.policy.record)
        if page.acted:
            facts |= {"acts": json.dumps(run.acts, ensure_ascii=False), "priority": run.priority}
        if page.deadline and run.deadline_at_ms is not None:
            facts["deadline_ms"] = run.deadline_at_ms - run.created_at_ms
        return facts


def _told(page: Pages, first: int) -> bytes | None:
    """What is told beside the lines of one entry, counted from its first; None for nothing."""
    told = [[at - first, it] for at, it in page.told if first <= at < first + LOG_PAGE]
    return _json(told).encode("utf-8", "replace") if told else None


def _error_bytes(error: dict[str, Any]) -> bytes:
    return _json(error).encode("utf-8", "replace")
