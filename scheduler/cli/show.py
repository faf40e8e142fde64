"""`celeriac runs show`: a run, its nodes, edges and attempts, read from Redis alone and put into words.

Nothing is guessed: states and timelines are the stored ones, and reasons follow from them: which upstream nodes are
open, which class has no worker, which rule answered what. They are the client's (client/views.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..client.views import NodeView, Workers, reasons_of, view_nodes
from ..core.run import Run, Try
from ..core.states import NodeState
from ..errors import NodeNotFound, escaped
from ..settings import Settings
from ..store.runs import Runs
from ..store.summaries import Summary
from ..wire import RunId
from .output import Output, counts_in_words, instant, json_text, note, span
from .values import errors_of, outputs_of
from .work import ready_since_ms

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
        "graph_version": it.graph_version,
        "versions": it.versions,
        "policy": it.policy,
        "priority": it.priority,
        "acts": [act._asdict() for act in it.acts],
    }


class Shown(NamedTuple):
    """One run as stored now, and what the client says of each of its nodes."""

    summary: Summary
    run: Run
    nodes: list[NodeView]

    def upstream(self, node: int) -> list[str]:
        """Keys of the nodes that a node waits for."""
        return [self.run.keys[up] for up in self.run.upstream(node)]

    def counts(self) -> dict[str, int]:
        """State -> nodes."""
        return dict(Counter(it.state.word for it in self.nodes))

    def waits(self, now_ms: int) -> dict[str, tuple[int, int]]:
        """How long nodes that could run have waited for it: ready, and sent to a worker that has not begun -> (nodes,
        ms that the first of them has waited). By the records, so times of Redis. O(nodes + edges into ready ones).
        """
        found: dict[str, tuple[int, int]] = {}
        for node, it in enumerate(self.nodes):
            if it.state is NodeState.READY:
                word, since = "ready", ready_since_ms(self.run, node)
            elif it.state is NodeState.DISPATCHED and it.tries and it.tries[-1].dispatched_at_ms:
                word, since = "sent", it.tries[-1].dispatched_at_ms
            else:
                continue
            nodes, longest = found.get(word, (0, 0))
            found[word] = nodes + 1, max(longest, now_ms - since)
        return found

    def document(self, node: int, error: dict[str, Any] | None) -> dict[str, Any]:
        """A node for JSON."""
        it = self.nodes[node]
        return {
            "key": it.key,
            "executor": it.executor,
            "version": it.version or None,
            "fallback_from": it.fallback_from or None,
            "queue_class": it.queue_class,
            "trigger_rule": it.trigger_rule,
            "upstream": self.upstream(node),
            "labels": it.labels,
            "state": it.state.word,
            "why": it.why,
            "failures": self.run.failures[node],
            "losses": self.run.losses[node],
            "attempts": [one._asdict() for one in it.tries],
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
    summary, run = runs.summary(run_id), runs.load(run_id)
    nodes_now = view_nodes(run, runs.claimed(run), Workers.read(runs, settings), reasons_of(runs, run))
    view = Shown(summary, run, list(nodes_now))
    numbers = _numbers(run, only) if only else list(range(run.n)) if nodes else []
    failed = [node for node, it in enumerate(view.nodes) if it.state is NodeState.FAILED]
    errors = errors_of(runs, run, {*numbers, *failed[:_SHOWN_FAILURES]})
    outputs = outputs_of(runs, run, numbers) if only else {}
    now = runs.now_ms()
    waits = view.waits(now)
    if out.json:
        out.document(
            _document(view, numbers, errors, outputs, nodes=nodes or bool(only))
            | {"waits": {word: {"nodes": count, "longest_ms": ms} for word, (count, ms) in waits.items()}}
        )
        return
    it = summary
    running = NodeState.RUNNING.word
    counts = view.counts()
    facts: list[tuple[str, Any]] = [
        ("run", it.id),
        ("graph", it.name if it.graph_version is None else f"{it.name}, version {it.graph_version}"),
        ("hash", it.hash),
        ("executors", _versions(it)),
        ("policy", it.policy),
        ("state", it.state.value),
        ("reason", it.reason),
        ("nodes", f"{it.nodes}: {counts_in_words(counts)}"),
        ("edges", len(run.up)),
        ("created", instant(it.created_at_ms)),
        ("ended", instant(it.ended_at_ms)),
        ("took", span((it.ended_at_ms or now) - it.created_at_ms)),
        ("waiting", ", ".join(f"{count} {word}, the first for {span(ms)}" for word, (count, ms) in waits.items())),
        ("deadline", instant(it.deadline_at_ms)),
        ("priority", it.priority or ""),
        ("key", it.key),
        ("correlation id", it.correlation_id),
        ("labels", ", ".join(f"{name}={value}" for name, value in it.labels.items())),
    ]
    out.facts([(name, value) for name, value in facts if value not in (None, "")])
    _show_acts(it, out)
    if numbers:
        _show_nodes(view, numbers, errors, out)
        for node in numbers if only else ():
            _show_values(view, node, errors, outputs, out)
    else:
        _show_failures(view, failed, errors, out)
        _show_open(view, out)
        if out.terminal:
            note(f"Every node: celeriac runs show {it.id} --nodes" + ("" if running not in counts else " (or watch)"))


def _versions(it: Summary) -> str:
    """Executors with their versions when the run was submitted; those without one are left out."""
    return ", ".join(f"{name} {found['version']}" for name, found in it.versions.items() if "version" in found)


def _show_acts(it: Summary, out: Output) -> None:
    """What people have asked of the run, the newest last."""
    if it.acts:
        rows = [[instant(act.at_ms), act.verb, act.by, act.what, act.reason] for act in it.acts]
        out.table(["asked", "verb", "by", "what", "reason"], rows)


def _numbers(run: Run, keys: Sequence[str]) -> list[int]:
    index = {key: node for node, key in enumerate(run.keys)}
    for key in keys:
        if key not in index:
            raise NodeNotFound(run.id, key, run.keys)
    return [index[key] for key in keys]


def _document(
    view: Shown,
    numbers: Sequence[int],
    errors: dict[int, dict[str, Any]],
    outputs: dict[int, Any],
    *,
    nodes: bool,
) -> dict[str, Any]:
    found = summary_document(view.summary)
    found["counts"] = view.counts()
    if nodes:
        found["edges"] = [[up, view.run.keys[node]] for node in numbers for up in view.upstream(node)]
        found["nodes"] = [
            view.document(node, errors.get(node)) | ({"output": outputs[node]} if node in outputs else {})
            for node in numbers
        ]
    else:
        found["failures"] = {view.run.keys[node]: error for node, error in errors.items()}
    return found


def _show_nodes(view: Shown, numbers: Sequence[int], errors: dict[int, dict[str, Any]], out: Output) -> None:
    rows: list[list[Any]] = []
    for node in numbers:
        it, after, why = view.nodes[node], view.upstream(node), view.nodes[node].why
        if node in errors:
            why = f"{errors[node].get('kind', '')}: {errors[node].get('message', '')}"
        shown = ", ".join(after[:5]) + (f", … {len(after) - 5} more" if len(after) > 5 and out.terminal else "")
        rows.append(
            [
                it.key,
                " ".join(filter(None, (it.executor, it.version)))
                + (f" (fallback_from {it.fallback_from})" if it.fallback_from else ""),
                it.state.word,
                shown if out.terminal else ", ".join(after),
                "; ".join(timeline(one) for one in it.tries),
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
    by_hand = one.end == "completed"  # then the word behind it is the number of the request
    if one.why and not by_hand:
        end += f" ({one.why})"
    who = f" {'by' if by_hand else 'on'} {one.worker}" if one.worker else ""
    return f"{one.attempt} {end}{who}: {', '.join(parts)}".rstrip(": ")


def _show_values(
    view: Shown, node: int, errors: dict[int, dict[str, Any]], outputs: dict[int, Any], out: Output
) -> None:
    if node in outputs:
        out.line(f"{escaped(view.run.keys[node])} output: {json_text(outputs[node])}")
    elif node in errors:
        error = errors[node]
        out.line(f"{escaped(view.run.keys[node])} error: {json_text({k: error[k] for k in error if k != 'traceback'})}")
        if error.get("traceback"):
            out.line(escaped(str(error["traceback"]), 20_000, keep="\n"))


def _show_failures(view: Shown, failed: Sequence[int], errors: dict[int, dict[str, Any]], out: Output) -> None:
    if not failed:
        return
    rows = [
        [view.run.keys[node], errors.get(node, {}).get("kind", ""), errors.get(node, {}).get("message", "")]
        for node in failed[:_SHOWN_FAILURES]
    ]
    out.table(["failed node", "kind", "message"], rows)
    if len(failed) > _SHOWN_FAILURES:
        note(f"... and {len(failed) - _SHOWN_FAILURES} more failed nodes")


def _show_open(view: Shown, out: Output) -> None:
    """What must hold for the run to move on: nodes that run, wait, or could be sent."""
    moving = (NodeState.RUNNING, NodeState.DISPATCHED, NodeState.READY, NodeState.WAITING)
    found = sorted((it for it in view.nodes if it.state in moving), key=lambda it: moving.index(it.state))
    if found:
        out.table(["open node", "state", "why"], [[it.key, it.state.word, it.why] for it in found[:_SHOWN_OPEN]])
    if len(found) > _SHOWN_OPEN:
        note(f"... and {len(found) - _SHOWN_OPEN} more open nodes")
