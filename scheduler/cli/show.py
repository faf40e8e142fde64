"""`celeriac runs show`: a run, its nodes, edges and attempts, read from Redis alone and put into words.

Nothing is guessed: states and timelines are the stored ones, and reasons follow from them: which upstream nodes are
open, which class has no worker, which rule answered what.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.run import Run, Try
from ..core.states import FIRST_ENDED, NodeState
from ..errors import NodeNotFound, escaped
from ..service.admission import Admission
from ..settings import Settings
from ..store.runs import Runs, Summary
from ..wire import RunId
from .output import Output, counts_in_words, instant, json_text, note, span
from .values import errors_of, outputs_of
from .work import is_ready, live_workers, served_classes

_SHOWN_FAILURES = 10
_SHOWN_OPEN = 20


def summary_document(it: Summary) -> dict[str, Any]:
    """A run as lists show it, for JSON."""
    return {
        "run": it.id,
        "name": it.name,
        "state": it.state.value,
        "reason": it.reason,
        "node_count": it.nodes,
        "progress": it.progress,
        "created_at_ms": it.created_at_ms,
        "ended_at_ms": it.ended_at_ms,
        "deadline_at_ms": it.deadline_at_ms,
        "labels": it.labels,
        "correlation_id": it.correlation_id,
        "key": it.key,
        "hash": it.hash,
    }


class View:
    """One run as loaded now, with what is needed to explain each of its nodes."""

    def __init__(self, runs: Runs, run_id: RunId, settings: Settings) -> None:
        self.runs = runs
        self.summary = runs.summary(run_id)
        self.run: Run = runs.load(run_id)
        self.claimed = runs.claimed(self.run)
        self._admission = Admission(settings.classes, settings.default_class.name)
        self._admission.learn(runs.contracts())
        self._served = served_classes(settings, live_workers(runs).values())

    def state(self, node: int) -> NodeState:
        """The state of a node; running and ready as far as they are not recorded but follow."""
        state = NodeState(self.run.state[node])
        if state == NodeState.DISPATCHED and node in self.claimed:
            return NodeState.RUNNING
        if state == NodeState.PENDING and is_ready(self.run, node):
            return NodeState.READY
        return state

    def queue_class(self, node: int) -> str | None:
        """Where its attempts go; None while nobody knows."""
        return self._admission.place(self.run.profiles[self.run.profile[node]])[0]

    def why(self, node: int) -> str:
        """In words: what the node waits for, or why it ended as it did. "" when there is nothing to explain."""
        run, state = self.run, self.state(node)
        if state in (NodeState.UPSTREAM_FAILED, NodeState.SKIPPED):
            cause = run.cause.get(node)
            rule = run.profiles[run.profile[node]].rule.name
            return rule if cause is None else f"{rule}: {run.keys[cause]} is {self.state(cause).word}"
        if state == NodeState.PENDING:
            waiting = [up for up in run.upstream(node) if run.state[up] < FIRST_ENDED]
            more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
            return f"waits for {', '.join(run.keys[up] for up in waiting[:3])}{more}"
        if state == NodeState.READY:
            name, why = self._admission.place(run.profiles[run.profile[node]])
            if name is None:
                return why
            return f"waits for room in {name}" if name in self._served else f"no worker serves {name}"
        if state == NodeState.DISPATCHED:
            name = self.queue_class(node)
            return "sent, not taken yet" if name in self._served else f"sent, and no worker serves {name}"
        if state == NodeState.RUNNING:
            return f"on {self.claimed[node][1]}" if node in self.claimed else ""
        return "waits before its next attempt" if state == NodeState.WAITING else ""

    def tries(self, node: int) -> list[Try]:
        """Attempts so far, the claim of the current one filled in."""
        tries = list(self.run.tries(node))
        if tries and node in self.claimed and not tries[-1].ended_at_ms:
            at_ms, worker = self.claimed[node]
            tries[-1] = tries[-1]._replace(claimed_at_ms=at_ms, worker=worker)
        return [one for one in tries if one.ready_at_ms]

    def document(self, node: int, error: dict[str, Any] | None) -> dict[str, Any]:
        """A node for JSON."""
        run = self.run
        profile = run.profiles[run.profile[node]]
        return {
            "key": run.keys[node],
            "executor": profile.executor,
            "queue_class": self.queue_class(node),
            "trigger_rule": profile.rule.name,
            "upstream": [run.keys[up] for up in run.upstream(node)],
            "labels": run.labels.get(node, {}),
            "state": self.state(node).word,
            "why": self.why(node),
            "failures": run.failures[node],
            "losses": run.losses[node],
            "attempts": [one._asdict() for one in self.tries(node)],
            "error": error,
        }


def show_run(
    runs: Runs, run_id: RunId, settings: Settings, out: Output, *, nodes: bool = False, only: Sequence[str] = ()
) -> None:
    """Prints a run.

    Args:
        nodes: every node with its attempts.
        only: these nodes, with outputs and errors.

    Raises:
        RunNotFound, NodeNotFound: there is no such run, or node of it.
    """
    view = View(runs, run_id, settings)
    numbers = _numbers(view.run, only) if only else list(range(view.run.n)) if nodes else []
    failed = [node for node, state in enumerate(view.run.state) if state == NodeState.FAILED]
    errors = errors_of(runs, view.run, {*numbers, *failed[:_SHOWN_FAILURES]})
    outputs = outputs_of(runs, view.run, numbers) if only else {}
    if out.json:
        out.document(_document(view, numbers, errors, outputs, nodes=nodes or bool(only)))
        return
    it = view.summary
    running = NodeState.RUNNING.word
    counts = _counts(view)
    facts: list[tuple[str, Any]] = [
        ("run", it.id),
        ("graph", it.name),
        ("state", it.state.value),
        ("reason", it.reason),
        ("nodes", f"{it.nodes}: {counts_in_words(counts)}"),
        ("edges", len(view.run.up)),
        ("created", instant(it.created_at_ms)),
        ("ended", instant(it.ended_at_ms)),
        ("took", span((it.ended_at_ms or runs.now_ms()) - it.created_at_ms)),
        ("deadline", instant(it.deadline_at_ms)),
        ("key", it.key),
        ("correlation id", it.correlation_id),
        ("labels", ", ".join(f"{name}={value}" for name, value in it.labels.items())),
    ]
    out.facts([(name, value) for name, value in facts if value not in (None, "")])
    if numbers:
        _show_nodes(view, numbers, errors, out)
        for node in numbers if only else ():
            _show_values(view, node, errors, outputs, out)
    else:
        _show_failures(view, failed, errors, out)
        _show_open(view, out)
        if out.terminal:
            note(f"Every node: celeriac runs show {it.id} --nodes" + ("" if running not in counts else " (or watch)"))


def _numbers(run: Run, keys: Sequence[str]) -> list[int]:
    index = {key: node for node, key in enumerate(run.keys)}
    for key in keys:
        if key not in index:
            raise NodeNotFound(run.id, key, run.keys)
    return [index[key] for key in keys]


def _counts(view: View) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in range(view.run.n):
        word = view.state(node).word
        counts[word] = counts.get(word, 0) + 1
    return counts


def _document(
    view: View,
    numbers: Sequence[int],
    errors: dict[int, dict[str, Any]],
    outputs: dict[int, Any],
    *,
    nodes: bool,
) -> dict[str, Any]:
    found = summary_document(view.summary)
    found["counts"] = _counts(view)
    if nodes:
        found["edges"] = [
            [view.run.keys[up], view.run.keys[node]] for node in numbers for up in view.run.upstream(node)
        ]
        found["nodes"] = [
            view.document(node, errors.get(node)) | ({"output": outputs[node]} if node in outputs else {})
            for node in numbers
        ]
    else:
        found["failures"] = {view.run.keys[node]: error for node, error in errors.items()}
    return found


def _show_nodes(view: View, numbers: Sequence[int], errors: dict[int, dict[str, Any]], out: Output) -> None:
    rows: list[list[Any]] = []
    for node in numbers:
        run = view.run
        why = view.why(node)
        if node in errors:
            why = f"{errors[node].get('kind', '')}: {errors[node].get('message', '')}"
        after = [run.keys[up] for up in run.upstream(node)]
        shown = ", ".join(after[:5]) + (f", … {len(after) - 5} more" if len(after) > 5 and out.terminal else "")
        rows.append(
            [
                run.keys[node],
                run.profiles[run.profile[node]].executor,
                view.state(node).word,
                shown if out.terminal else ", ".join(after),
                "; ".join(timeline(one) for one in view.tries(node)),
                why,
            ]
        )
    out.table(["node", "executor", "state", "after", "attempts", "why"], rows)


def timeline(one: Try) -> str:
    """An attempt in a few words: how it ended and where the time went.

    >>> timeline(Try(1, 1000, 1010, 1030, 2030, "succeeded", "w1"))
    '1 succeeded on w1: waited 10ms, queued 20ms, ran 1.0s'
    """
    parts = []
    if one.dispatched_at_ms:
        parts.append(f"waited {span(one.dispatched_at_ms - one.ready_at_ms)}")
    if one.claimed_at_ms:
        parts.append(f"queued {span(one.claimed_at_ms - one.dispatched_at_ms)}")
    if one.ended_at_ms:
        begun = one.claimed_at_ms or one.dispatched_at_ms
        parts.append(f"{'ran' if one.claimed_at_ms else 'gone after'} {span(one.ended_at_ms - begun)}")
    end = one.end or ("running" if one.claimed_at_ms else "sent" if one.dispatched_at_ms else "ready")
    return f"{one.attempt} {end}{' on ' + one.worker if one.worker else ''}: {', '.join(parts)}".rstrip(": ")


def _show_values(
    view: View, node: int, errors: dict[int, dict[str, Any]], outputs: dict[int, Any], out: Output
) -> None:
    if node in outputs:
        out.line(f"{escaped(view.run.keys[node])} output: {json_text(outputs[node])}")
    elif node in errors:
        error = errors[node]
        out.line(f"{escaped(view.run.keys[node])} error: {json_text({k: error[k] for k in error if k != 'traceback'})}")
        if error.get("traceback"):
            out.line(escaped(str(error["traceback"]), 20_000, keep="\n"))


def _show_failures(view: View, failed: Sequence[int], errors: dict[int, dict[str, Any]], out: Output) -> None:
    if not failed:
        return
    rows = [
        [view.run.keys[node], errors.get(node, {}).get("kind", ""), errors.get(node, {}).get("message", "")]
        for node in failed[:_SHOWN_FAILURES]
    ]
    out.table(["failed node", "kind", "message"], rows)
    if len(failed) > _SHOWN_FAILURES:
        note(f"... and {len(failed) - _SHOWN_FAILURES} more failed nodes")


def _show_open(view: View, out: Output) -> None:
    """What must hold for the run to move on: nodes that run, wait, or could be sent."""
    moving = (NodeState.RUNNING, NodeState.DISPATCHED, NodeState.READY, NodeState.WAITING)
    found = [node for node in range(view.run.n) if view.state(node) in moving]
    found.sort(key=lambda node: (moving.index(view.state(node)), node))
    if found:
        rows = [[view.run.keys[node], view.state(node).word, view.why(node)] for node in found[:_SHOWN_OPEN]]
        out.table(["open node", "state", "why"], rows)
    if len(found) > _SHOWN_OPEN:
        note(f"... and {len(found) - _SHOWN_OPEN} more open nodes")
