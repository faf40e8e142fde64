"""Every key in Redis: its name, type, lifetime and shard tag.

Keys of one shard carry its hash tag `{cel:7}`, so one script may touch them and a Redis Cluster can
hold them. Nothing that a user wrote is ever part of a key: run ids are made by us and checked,
nodes are numbers.
"""

from __future__ import annotations

from ..wire import RunId

BUCKET = 100
"""Nodes per hash of records: small enough for Redis to keep the hash as one compact listpack."""


STAGED_SECONDS = 3600
LAYOUT = 1
"""Version of all that is described here. Goes up when an older process would misread what a newer one writes; fields
that it ignores and keys that it does not know are no reason."""


class Keys:
    """The keys of one installation (a namespace)."""

    def __init__(self, namespace: str = "cel") -> None:
        self.namespace = namespace
        self.meta = f"{namespace}:meta"
        """hash: shards and layout, fixed when the store is first used (without a layout it is 1); archive and
        archive_problem, where ended runs go."""
        self.owners = f"{namespace}:owners"
        """hash: shard -> "epoch|lease end, ms|scheduler". Who writes for which shard."""
        self.schedulers = f"{namespace}:schedulers"
        """zset: scheduler -> end of its membership, ms."""
        self.executors = f"{namespace}:executors"
        """hash: executor -> contract, JSON. Published by workers at start."""
        self.executors_version = f"{namespace}:executors:version"
        """string: counts publications, so that a scheduler reads the hash only when it changed."""
        self.executors_pace = f"{namespace}:executors:pace"
        """hash: executor -> us that four in five of its latest attempts have not exceeded. Measured by schedulers."""
        self.executors_seen = f"{namespace}:executors:seen"
        """zset: executor -> when a worker last published or confirmed it, ms."""
        self.paused = f"{namespace}:paused"
        """hash: "graph:NAME", "class:NAME" or "executor:NAME" -> who paused it and why, JSON; version -> how often that
        has changed, so that a scheduler reads the rest only then."""
        self.policies = f"{namespace}:policies"
        """hash: "version:NAME" -> record of that policy, JSON; current -> the version in force, "" for none; changes ->
        how often that has changed, so that a scheduler reads the rest only then."""
        self.policies_history = f"{namespace}:policies:history"
        """list: changes of the policy in force, JSON, the newest first; bounded."""
        self.workers = f"{namespace}:workers"
        """hash: worker -> description with seen_at_ms, JSON."""
        self.capabilities = f"{namespace}:capabilities"
        """hash: capability, or tool as documents write it -> the executor it is bound to, by whom and why, JSON."""
        self.capabilities_version = f"{namespace}:capabilities:version"
        """string: counts changes of bindings, so that a scheduler reads them only then."""
        self.capabilities_history = f"{namespace}:capabilities:history"
        """list: changes of bindings, JSON, the newest first; bounded."""
        self._shards: dict[int, ShardKeys] = {}

    def shard(self, shard: int) -> ShardKeys:
        """The keys of one shard."""
        keys = self._shards.get(shard)
        if keys is None:
            keys = self._shards[shard] = ShardKeys(self.namespace, shard)
        return keys


class ShardKeys:
    """The keys of one shard; all carry its hash tag."""

    def __init__(self, namespace: str, shard: int) -> None:
        tag = f"{{{namespace}:{shard}}}"
        self.shard = shard
        self.tag = tag
        self.epoch = f"{tag}:epoch"
        """string: the owner's fencing token, "number.nonce"; commits under any other are refused."""
        self.commits = f"{tag}:commits"
        """string: counts commits, so that an owner notices when Redis has lost some."""
        self.rewound = f"{tag}:rewound"
        """hash: when this shard last went back in time (at_ms), missing commits, times; known: told by who noticed."""
        self.inbox = f"{tag}:inbox"
        """stream: events that arrived; an entry goes with the commit that consumed it."""
        self.attempts = f"{tag}:attempts"
        """hash: attempt id -> state, for attempts in flight."""
        self.leases = f"{tag}:leases"
        """zset: attempt id -> instant at which it counts as lost, ms."""
        self.timers = f"{tag}:timers"
        """zset: timer -> due instant, ms."""
        self.outbox = f"{tag}:outbox"
        """list: batches of attempt ids, committed and perhaps not yet published."""
        self.live = f"{tag}:live"
        """zset: run -> created at, ms, for runs that have not ended."""
        self.expected = f"{tag}:expected"
        """hash: live run -> bytes that it may still come to take; "all" -> their sum. What the memory guard adds."""
        self.approvals = f"{tag}:approvals"
        """hash: "run node epoch" -> what is asked, JSON: approvals that wait for an answer."""
        self.ended = f"{tag}:ended"
        """zset: run -> ended at, ms."""
        self.gone = f"{tag}:gone"
        """hash: run -> "hash of its graph|nodes", for runs that are removed but for some of their records."""

        self.dead = f"{tag}:dead"
        """stream: dead letters, what nobody could use; bounded, the oldest are pushed out."""
        self.dead_counts = f"{tag}:dead:counts"
        """hash: kind -> dead letters written since the start; taken -> those that somebody put back or dropped."""

    def run(self, run: RunId) -> str:
        """hash: what is known of the run as a whole."""
        return f"{self.tag}:run:{run}"

    def archived(self, run: RunId) -> str:
        """string: "hash of its graph|state|ended at, ms" of a removed run that had an idempotency key; expires."""
        return f"{self.tag}:archived:{run}"

    def spec(self, run: RunId) -> str:
        """hash: page -> nodes of the graph, zlib of JSON."""
        return f"{self.tag}:run:{run}:spec"

    def staged(self, run: RunId, submission: str) -> str:
        """hash: pages of a graph that one submission brings; gone after STAGED_SECONDS when it never ends."""
        return f"{self.tag}:run:{run}:spec:{submission}"

    def nodes(self, run: RunId, bucket: int) -> str:
        """hash: node -> record (state and timeline), BUCKET nodes each."""
        return f"{self.tag}:run:{run}:nodes:{bucket}"

    def values(self, run: RunId, bucket: int) -> str:
        """hash: node -> output or error, JSON, BUCKET nodes each."""
        return f"{self.tag}:run:{run}:values:{bucket}"

    def signals(self, run: RunId) -> str:
        """hash: id -> signal that the run has taken, JSON."""
        return f"{self.tag}:run:{run}:signals"

    def log(self, run: RunId) -> str:
        """stream: the run's decisions with their reasons, append-only. Fields: moves; told, what a replay must know
        beside them (core/recorded.py), where there is something.
        """
        return f"{self.tag}:run:{run}:log"

    def blob(self, attempt: str) -> str:
        """string: an output too large for a report."""
        return f"{self.tag}:blob:{attempt}"
