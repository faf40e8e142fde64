"""Commits: the writes of one batch for one shard, gathered in memory and applied by one fenced script.

A commit of many nodes is cut into calls of a bounded size, and a crash may come between two of them. So the order
counts: first what is harmless alone (outputs, attempts with their leases and outbox, timers), then the records that
make it true, then the log, and last what is over and the entries that were consumed. Whatever was cut off is
decided again from the entries that are still there; nothing that a record promises can be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis import Redis

from ..wire import RunId
from .dead import MOST_DEAD, MOST_LARGE_DEAD, SMALL_DEAD_BYTES, Dead
from .direct import Part
from .keys import BUCKET, ShardKeys
from .scripts import COMMIT

NODES_PER_CALL = 1000
LOG_ENTRIES, LOG_ENTRIES_PER_NODE = 1_000, 10
_ARGUMENTS_PER_WRITE = 2000
_ARGUMENTS_PER_CALL = 4 * NODES_PER_CALL

Write = tuple[str, str, Sequence[Part]]
"""Command, key, arguments."""


class Overtaken(Exception):
    """A worker has claimed an attempt between the look that found it lost and the commit that says so.

    Nothing of that commit was applied. What is in memory is to be forgotten and loaded again: the claim counts.
    """


class Commit:
    """What one batch changes in one shard. Methods only gather; `calls` gives what is to be sent.

    Args:
        keys: of the shard.
        epoch: the owner's token.
        count: commits of the shard so far, as its owner knows; None when that is not to be compared.

    Attributes:
        cuts: how many calls it took, once they have been made; each counts as a commit of the shard.
        rewound: it was refused because Redis has lost commits that it had acknowledged.
        pushed: its messages go with it, and so are not in the outbox; known once the calls have been made.
    """

    def __init__(self, keys: ShardKeys, epoch: str | int, count: int | None = None) -> None:
        self.keys = keys
        self.epoch = str(epoch)
        self.count = count
        self.cuts = 0
        self.rewound = self.pushed = False
        self._first: list[Write] = []
        self._outbox: list[Write] = []
        self._queues: list[Write] = []
        self._records: list[Write] = []
        self._log: list[Write] = []
        self._last: list[Write] = []

    def __bool__(self) -> bool:
        return bool(self._first or self._outbox or self._records or self._log or self._last)

    def records(self, run: RunId, records: Mapping[int, str]) -> None:
        """Nodes that moved: node -> record."""
        for bucket, pairs in _in_buckets(records).items():
            _add(self._records, "HSET", self.keys.nodes(run, bucket), pairs)

    def values(self, run: RunId, values: Mapping[int, bytes]) -> None:
        """Outputs and errors: node -> raw JSON."""
        for bucket, pairs in _in_buckets(values).items():
            _add(self._first, "HSET", self.keys.values(run, bucket), pairs)

    def signals(self, run: RunId, signals: Mapping[str, bytes]) -> None:
        """Signals that the run takes, or that have ended a wait: id -> JSON."""
        _add(self._first, "HSET", self.keys.signals(run), [part for pair in signals.items() for part in pair])

    def approvals(self, asked: Mapping[str, bytes], done: Sequence[str]) -> None:
        """What people are asked from now on, "run node epoch" -> JSON, and what they are asked no more."""
        _add(self._first, "HSET", self.keys.approvals, [part for pair in asked.items() for part in pair])
        _add(self._last, "HDEL", self.keys.approvals, done)

    def out(self, attempts: Mapping[str, str], deadline_ms: Mapping[str, int]) -> None:
        """Attempts that go out: id -> state, and id -> instant by which a worker must have claimed it."""
        _add(self._first, "HSET", self.keys.attempts, [part for pair in attempts.items() for part in pair])
        _add(self._first, "ZADD", self.keys.leases, [part for id_, at in deadline_ms.items() for part in (at, id_)])

    def still(self, attempts: Mapping[str, str]) -> None:
        """Attempts (id -> state) that must be as the decision found them; comes before everything else."""
        writes: list[Write] = []
        _add(writes, "STILL", self.keys.attempts, [part for pair in attempts.items() for part in pair])
        self._first[:0] = writes

    def over(self, attempts: Sequence[str]) -> None:
        """Attempts that are over: claims and renewals of them are refused from now on."""
        _add(self._last, "HDEL", self.keys.attempts, attempts)
        _add(self._last, "ZREM", self.keys.leases, attempts)

    def timers(self, due: Mapping[str, int], done: Sequence[str]) -> None:
        """Timers to set (timer -> due instant, ms) and to forget."""
        _add(self._first, "ZADD", self.keys.timers, [part for timer, at in due.items() for part in (at, timer)])
        _add(self._last, "ZREM", self.keys.timers, done)

    def log(self, run: RunId, entry: bytes, nodes: int, told: bytes | None = None) -> None:
        """Decisions, appended to the log of a run of so many nodes.

        A log holds some ten entries a node, which no run needs that is not tried again and again; of one that is, the
        oldest entries go, and the records of its nodes still tell how each of them ended.

        Args:
            told: what a replay must know beside the decisions, in a field of its own that older readers ignore.
        """
        kept = LOG_ENTRIES + LOG_ENTRIES_PER_NODE * nodes
        beside = () if told is None else ("told", told)
        self._log.append(("XADD", self.keys.log(run), ("MAXLEN", "~", kept, "*", "moves", entry, *beside)))

    def run(self, run: RunId, fields: Mapping[str, Part]) -> None:
        """Facts of the run as a whole."""
        _add(self._records, "HSET", self.keys.run(run), [part for pair in fields.items() for part in pair])

    def ended(self, run: RunId, at_ms: int) -> None:
        """The run is over."""
        self._last.append(("ZADD", self.keys.ended, (at_ms, run)))
        self._last.append(("ZREM", self.keys.live, (run,)))
        self.unexpected(run)

    def unexpected(self, run: str) -> None:
        """The memory guard need not count on this run any more."""
        self._last.append(("LEAVE", self.keys.expected, (run,)))

    def reopened(self, run: RunId, created_at_ms: int) -> None:
        """A run that had ended goes on; its deadline was for the first go."""
        self._records.append(("HDEL", self.keys.run(run), ("ended_at_ms", "deadline_ms")))
        self._last.append(("ZREM", self.keys.ended, (run,)))
        self._last.append(("ZADD", self.keys.live, (created_at_ms, run)))

    def begun(self, run: RunId, numbers: Sequence[int]) -> None:
        """Requests that this commit answers: should it be cut, what it did is known for theirs when they come again."""
        self._first.append(("HSET", self.keys.run(run), ("asked", " ".join(map(str, numbers)))))

    def no_deadline(self, run: RunId) -> None:
        """The run has no deadline any more."""
        self._records.append(("HDEL", self.keys.run(run), ("deadline_ms",)))

    def keep_blob(self, attempt: str) -> None:
        """A large output was accepted: it lasts as long as its run."""
        self._first.append(("PERSIST", self.keys.blob(attempt), ()))

    def outbox(self, attempts: Sequence[str], published: int) -> None:
        """Attempts to be published after this commit; drops the oldest `published` batches, which have been."""
        if published:
            self._last.append(("LTRIM", self.keys.outbox, (published, -1)))
        for at in range(0, len(attempts), NODES_PER_CALL):
            self._outbox.append(("RPUSH", self.keys.outbox, (" ".join(attempts[at : at + NODES_PER_CALL]),)))

    def push(self, queues: Mapping[str, Sequence[bytes]]) -> None:
        """Messages of all attempts that go out, for lists of this Redis: they go with the commit, and need not stand in
        the outbox until they are sent; but only if that is one call, of which all is done or nothing.
        """
        self._queues += (("LPUSH", name, messages) for name, messages in queues.items())

    def dead(self, letters: Sequence[Dead]) -> None:
        """What nobody could use, put aside with its cause."""
        for it in letters:
            kept = MOST_DEAD if it.weight <= SMALL_DEAD_BYTES else MOST_LARGE_DEAD
            self._last.append(("XADD", self.keys.dead, ("MAXLEN", "~", kept, "*", *it.fields())))
        for kind, number in Counter(it.kind for it in letters).items():
            self._last.append(("HINCRBY", self.keys.dead_counts, (kind, number)))

    def consumed(self, entries: Sequence[bytes]) -> None:
        """Inbox entries that this commit answers."""
        for at in range(0, len(entries), _ARGUMENTS_PER_WRITE):
            self._last.append(("XDEL", self.keys.inbox, entries[at : at + _ARGUMENTS_PER_WRITE]))

    def calls(self) -> Iterable[tuple[list[str], list[Part]]]:
        """(keys, arguments) of each script call, in order. What is consumed goes with the last."""
        self.cuts = 0
        numbers, keys, arguments = self._blank()
        writes = [*self._first, *self._outbox, *self._records, *self._log, *self._last]
        if self._queues:
            whole = [*self._first, *self._records, *self._log, *self._last, *self._queues]
            self.pushed = sum(3 + len(given) for _, _, given in whole) <= _ARGUMENTS_PER_CALL
            writes = whole if self.pushed else writes
        for command, key, given in writes:
            if numbers and len(arguments) > _ARGUMENTS_PER_CALL:
                yield keys, arguments
                numbers, keys, arguments = self._blank()
            number = numbers.get(key)
            if number is None:
                keys.append(key)
                number = numbers[key] = len(keys)
            arguments += (command, number, len(given), *given)
        yield keys, arguments

    def _blank(self) -> tuple[dict[str, int], list[str], list[Part]]:
        expected = "" if self.count is None else self.count + self.cuts
        self.cuts += 1
        return {}, [self.keys.epoch, self.keys.commits], [self.epoch, expected]


def _add(writes: list[Write], command: str, key: str, arguments: Sequence[Part]) -> None:
    size = _ARGUMENTS_PER_WRITE
    writes += ((command, key, arguments[at : at + size]) for at in range(0, len(arguments), size))


def _in_buckets(values: Mapping[int, Part]) -> dict[int, list[Part]]:
    buckets: dict[int, list[Part]] = {}
    for node, value in values.items():
        pairs = buckets.get(node // BUCKET)
        if pairs is None:
            pairs = buckets[node // BUCKET] = []
        pairs += (node, value)
    return buckets


def send_commits(client: Redis, commits: Sequence[Commit]) -> list[int]:
    """Apply commits, one round trip for all of them.

    Returns:
        The shards whose commit was refused, because another scheduler owns them by now or because commits of theirs
        are missing (`Commit.rewound`). What such a shard has in memory is to be forgotten.

    Raises:
        Overtaken, redis.exceptions.RedisError: not all of them may have been applied; forget and load again.
    """
    calls = [(commit, keys, arguments) for commit in commits for keys, arguments in commit.calls()]
    if len(calls) == 1:
        [(_, keys, arguments)] = calls
        answers: list[Any] = [COMMIT(client, keys, arguments)]
    else:
        answers = COMMIT.many(client, [(keys, arguments) for _, keys, arguments in calls])
    if b"overtaken" in answers:
        raise Overtaken
    refused = set()
    for (commit, _, _), answer in zip(calls, answers, strict=True):
        if answer != b"committed":
            refused.add(commit.keys.shard)
            commit.rewound = answer == b"rewound"
    return sorted(refused)
