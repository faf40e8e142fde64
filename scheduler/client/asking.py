"""Requests for nodes of a run, its deadline and its priority: what each carries, what is wrong with it, and its answer.

What can be known here is checked before anything is stored; the rest the run's scheduler decides, and its answer is
read from the run's log. Each request has a number, so that one that is sent twice, because Redis's reply was lost, is
one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from ..core.node_verbs import following
from ..core.run import REGION, Run
from ..core.states import BAD_ENDS, ENDED_RUNS, FIRST_ENDED, IN_FLIGHT, NodeState, RunState
from ..errors import (
    InvalidValue,
    NodeNotFound,
    RequestRefused,
    RunArchived,
    RunError,
    TooLarge,
    did_you_mean,
    shown,
)
from ..graph.contracts import check_output
from ..graph.handles import Node
from ..graph.limits import Duration, kind_of, seconds_of
from ..wire import INLINE_LIMIT_BYTES, RunId
from .access import Access
from .given import priority_of
from .steps import RunSteps
from .views import state_of
from .waiting import Ask, Follow, Steps

Planned = list[tuple[str, NodeState]]
"""Keys of nodes that run again, in topological order, each with the state in which it is now."""


class Request(NamedTuple):
    """One request on its way.

    Attributes:
        kind: of record.  verb: as the log answers.  fields: of the record, besides run, reason and who.
        check: what the client can know: takes the run as stored, raises what is wrong, gives what the caller gets.
        ended: whether an ended run takes it.
    """

    kind: str
    verb: str
    fields: dict[str, Any]
    check: Callable[[Run], Any]
    ended: bool = False


class Requests:
    """The requests for one run.

    Args:
        access: to the store.
        run: its id.
        steps: of the run.
    """

    def __init__(self, access: Access, run: RunId, steps: RunSteps) -> None:
        self.id = run
        self._access = access
        self._steps = steps

    def cancel_nodes(self, keys: list[str], at_once: bool) -> Request:
        """Nodes are to stop."""

        def check(run: Run) -> None:
            numbers = [_number(run, key) for key in keys]
            if all(run.state[node] >= FIRST_ENDED for node in numbers):
                raise RequestRefused(self.id, "cancel", f"{_named(keys)} ended already")

        fields = {"nodes": keys, **({"at_once": True} if at_once else {})}
        return Request("cancel_nodes", "cancel", fields, check)

    def cancel_region(self, region: str, at_once: bool) -> Request:
        """All nodes of a region are to stop."""

        def check(run: Run) -> None:
            found = {labels[REGION] for labels in run.labels.values() if REGION in labels}
            if not any(it == region or it.startswith(f"{region}/") for it in found):
                known = f" Regions are {', '.join(map(shown, sorted(found)[:20]))}." if found else ""
                raise RunError(
                    f"run {self.id} has no node in a region {shown(region)}.{did_you_mean(region, found)}{known}",
                    run=self.id,
                )

        fields = {"region": _text(region, "region"), **({"at_once": True} if at_once else {})}
        return Request("cancel_nodes", "cancel", fields, check)

    def skip(self, key: str) -> Request:
        """A node is to be passed over."""

        def check(run: Run) -> None:
            state = NodeState(run.state[_number(run, key)])
            if state in IN_FLIGHT:
                why = f"node {shown(key)} has been sent; cancel it, or complete it by hand"
                raise RequestRefused(self.id, "skip", why)
            if state >= FIRST_ENDED:
                raise RequestRefused(self.id, "skip", f"node {shown(key)} is {state.word} already")

        return Request("skip", "skip", {"nodes": [key]}, check)

    def complete(self, key: str, output: Any) -> Request:
        """A node gets its output by hand."""
        text = _json_of(output)

        def check(run: Run) -> None:
            node = _number(run, key)
            state = NodeState(run.state[node])
            if state >= FIRST_ENDED and state not in BAD_ENDS:
                why = f"node {shown(key)} is {state.word}; only what is open, or ended badly, can be completed"
                raise RequestRefused(self.id, "complete", why)
            executor = run.profiles[run.profile[node]].executor
            if executor:
                check_output(key, executor, self._access.runs.contracts().get(executor, {}), json.loads(text))

        return Request("complete", "complete", {"nodes": [key], "output": text}, check, ended=True)

    def rerun(self, keys: list[str]) -> Request:
        """Nodes are to run again, and all that follows from them."""

        def check(run: Run) -> Planned:
            nodes = following(run, [_number(run, key) for key in keys])
            if not nodes:
                why = f"{_named(keys)} not ended, and nothing after it has begun: it runs anyway"
                raise RequestRefused(self.id, "rerun", why)
            return [(run.keys[node], state_of(run, node)) for node in nodes]

        return Request("rerun", "rerun", {"nodes": keys}, check, ended=True)

    def deadline(self, when: Duration | datetime | None) -> Request:
        """By when the run is to have ended."""
        if isinstance(when, datetime):
            if when.tzinfo is None:
                raise InvalidValue("when", when, "has no time zone", "Give one, such as datetime.now(UTC).")
            at_ms: int | None = round(when.timestamp() * 1000)
        elif when is None:
            at_ms = None
        else:
            wait_ms = round(seconds_of(when, "when") * 1000)
            at_ms = self._access.reach(self._now_ms) + wait_ms
        return Request("set_deadline", "deadline", {"at_ms": at_ms}, lambda _: None)

    def _now_ms(self) -> int:
        return self._access.runs.now_ms()

    def priority(self, priority: object) -> Request:
        """Whose nodes go first."""
        return Request("set_priority", "priority", {"priority": priority_of(priority)}, lambda _: None)

    # --- asking ------------------------------------------------------------------------------------------

    def plan(self, request: Request) -> Any:
        """What the client can know of a request; the answer that it would get.

        Raises:
            RunNotFound, RunArchived, RunError: the run is not there, or takes no such request.
        """
        run = self._steps.load()
        if self._access.is_archived(self.id):
            what = "Nothing of it can be changed; submit its graph again"
            raise RunArchived(self.id, self._access.runs.archive_place(), what)
        if run.run_state in ENDED_RUNS and not request.ended:
            raise self._over(request, run.run_state)
        return request.check(run)

    def _over(self, request: Request, state: RunState) -> RunError:
        return RunError(f"run {self.id} is {state}: there is nothing to {request.verb} any more.", run=self.id)

    def answered(self, request: Request, reason: str, who: str) -> Steps[Any]:
        """Ask, and wait until the run's log has the answer.

        Raises:
            RequestRefused: it says no.
        """
        after: str = yield Ask(self._steps.log_end)
        found = yield Ask(partial(self.plan, request))
        number = secrets.randbelow(2**52) + 1
        runs = self._access.runs
        yield Ask(partial(runs.ask, request.kind, self.id, reason, who, number=number, **request.fields))
        state = RunState.RUNNING
        while True:
            over = state in ENDED_RUNS and not request.ended
            entries = yield Follow(after, f"asked to {request.verb}", wait=not over)
            for move in (move for _, moves in entries for move in moves):
                if move[0] == -1 and move[2] == number:
                    if move[1] == "refused":
                        raise RequestRefused(self.id, request.verb, str(move[4]))
                    return found
            if entries:
                after = entries[-1][0]
            elif over:
                raise self._over(request, state)
            if not entries or any(move[0] == -1 for _, moves in entries for move in moves):
                state = yield Ask(self._steps.state)  # when it has ended, once more: the answer may just have come


def key_of(node: object) -> str:
    """The key of a node that is given by its handle or its key."""
    return node.key if isinstance(node, Node) else _text(node, "node")


def keys_of(nodes: object) -> list[str]:
    """Keys of nodes, each once."""
    if isinstance(nodes, Node | str):
        return [key_of(nodes)]
    if not isinstance(nodes, Iterable) or isinstance(nodes, bytes):
        raise InvalidValue("nodes", nodes, f"is {kind_of(nodes)}", "Hand over handles or keys of nodes.")
    found = list(dict.fromkeys(map(key_of, nodes)))
    if not found:
        raise InvalidValue("nodes", found, "names no node", "Hand over handles or keys of nodes.")
    return found


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise InvalidValue(at, value, f"is not text but {kind_of(value)}", "Hand over a handle or a key.")
    return value


def _number(run: Run, key: str) -> int:
    try:
        return run.keys.index(key)
    except ValueError:
        raise NodeNotFound(run.id, key, run.keys) from None


def _named(keys: list[str]) -> str:
    """Nodes as the begin of a sentence."""
    return f"node {shown(keys[0])} has" if len(keys) == 1 else f"nodes {', '.join(map(shown, keys[:3]))} have"


def _json_of(output: object) -> str:
    """An output as JSON text.

    Raises:
        InvalidValue: it is none.
        TooLarge: it is too much for a record.
    """
    try:
        text = json.dumps(output, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as broken:
        remedy = "Give null, a boolean, a number, text, or lists and objects of them."
        raise InvalidValue("output", output, f"is not JSON: {broken}", remedy) from None
    if size > INLINE_LIMIT_BYTES:
        remedy = "Store it elsewhere and give its address."
        raise TooLarge("output", size=size, limit=INLINE_LIMIT_BYTES, unit="bytes", remedy=remedy)
    return text
