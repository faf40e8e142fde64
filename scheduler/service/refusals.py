"""Why a node that could go out must not: its attempt fails without a message, with an error that says what to do.

Pure. `Dispatch.refuse` makes it of these: dispatched and failed in one commit, so the node's retry ladder has its say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core.failures import TOO_LATE
from ..core.run import Run
from ..core.safety import Finding, error_of
from ..errors import ExecutorNotAllowed, UnknownTool, VersionMismatch, shown
from ..settings import QueueClass
from ..store.routes import Routes
from ..wire import error_record, tool_of


class Refusal(NamedTuple):
    """A node whose attempt is to fail.

    Attributes:
        error: its record.
        counted: under which name the scheduler counts it.
    """

    run: Run
    node: int
    error: dict[str, Any]
    counted: str


def not_allowed(run: Run, node: int, executor: str, queue_class: QueueClass) -> Refusal:
    """Its executor may not run in its class."""
    told = ExecutorNotAllowed(executor, queue_class.name, queue_class.executors, at=_at(run, node))
    error = error_record("permanent", "ExecutorNotAllowed", str(told), origin="policy", phase="route")
    return Refusal(run, node, error, "not allowed")


def unknown_tool(run: Run, node: int, asked: str, routes: Routes) -> Refusal:
    """Nobody has published the tool that it asks for, in that version, and nothing is bound to it."""
    name = tool_of(asked).partition("@")[0]
    told = UnknownTool(asked, _at(run, node), routes.versions(name), routes.tools())
    return Refusal(run, node, error_record("contract", "UnknownTool", str(told), phase="route"), "unknown tools")


def other_version(
    run: Run, node: int, executor: str, version: str, *, asked: str | None = None, before: str | None = None
) -> Refusal:
    """Its executor has another version now than the node asks for, or another major one than at submit."""
    told = VersionMismatch(executor, version, f"run {run.id}, {_at(run, node)}", asked=asked, before=before)
    return Refusal(run, node, error_record("contract", "VersionMismatch", str(told), phase="route"), "other versions")


def too_late(run: Run, node: int, executor: str, expected_ms: int, left_ms: int) -> Refusal:
    """Its executor would not be done by the run's deadline."""
    told = (
        f"{_at(run, node)}: {shown(executor)} is expected to take {expected_ms / 1000:g} s, and "
        f"{max(left_ms, 0) / 1000:g} s are left until the run's deadline, so it was not begun. Give the run more time "
        "(celeriac runs deadline), or the node a fallback that is quicker."
    )
    return Refusal(run, node, error_record("timeout", TOO_LATE, told, origin="policy", phase="admit"), "too late")


def denied(run: Run, node: int, found: Finding) -> Refusal:
    """A safety check of its run's policy denies what would be sent."""
    return Refusal(run, node, error_of(run, found, after=False), "denied")


def _at(run: Run, node: int) -> str:
    return f"node {shown(run.keys[node])}"
