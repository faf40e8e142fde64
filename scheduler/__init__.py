"""celeriac: durable dependency graphs for the Celery you already run.

    from scheduler import Client, Graph

    g = Graph("digest")
    page = g.add("web.fetch", url="https://example.org")
    text = g.add("llm.summarise", page=page)
    print(Client.from_env().submit(g).get(text))

These names are the public surface; everything else may change. Each is imported when it is first used, so that
``import scheduler`` costs nothing. What executors use stands in `scheduler.worker`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client, Completed, Event, Explanation, Fact, NodeView, RunHandle, Submission
    from .core.states import NodeState, RunState
    from .errors import (
        AnswerRefused,
        ArchiveError,
        BudgetExceeded,
        BundleError,
        Cancelled,
        CeleriacError,
        ContractBroken,
        CycleFound,
        DeadLetterNotFound,
        DuplicateNode,
        ExecutorError,
        ExecutorNotAllowed,
        ExpressionError,
        Fenced,
        GraphError,
        HandleMisused,
        IllegalMove,
        InputMismatch,
        InvalidInput,
        InvalidValue,
        KeyReused,
        NodeFailed,
        NodeNotFound,
        NodeWithoutOutput,
        NotAllSubmitted,
        NotAnAncestor,
        NotJson,
        NotRedriven,
        PathNotInOutput,
        Permanent,
        PolicyNotFound,
        RateLimited,
        RequestRefused,
        RunArchived,
        RunCancelled,
        RunError,
        RunFailed,
        RunLost,
        RunNotFound,
        SafetyRefused,
        SecretMissing,
        SelfLoop,
        SettingsError,
        SignalRefused,
        StoreError,
        StoreFull,
        StoreRefused,
        StoreTooNew,
        StoreUnreachable,
        StoreUnsafe,
        TimedOut,
        TooLarge,
        Transient,
        UnknownClass,
        UnknownExecutor,
        UnknownMapper,
        UnknownNode,
        UnknownTool,
        UnreadableDocument,
        VersionMismatch,
        WaitTimeout,
        WireError,
    )
    from .graph import (
        Choice,
        Edge,
        Formula,
        Graph,
        Node,
        Path,
        Retry,
        Secret,
        Timing,
        again,
        capability,
        changed,
        escalate,
        has,
        other,
        size,
        tool,
        within,
    )
    from .settings import QueueClass, Settings
    from .store.approvals import Question
    from .store.summaries import Summary

__version__ = "0.1.0"

__all__ = [
    "AnswerRefused",
    "ArchiveError",
    "BudgetExceeded",
    "BundleError",
    "Cancelled",
    "CeleriacError",
    "Choice",
    "Client",
    "Completed",
    "ContractBroken",
    "CycleFound",
    "DeadLetterNotFound",
    "DuplicateNode",
    "Edge",
    "Event",
    "ExecutorError",
    "ExecutorNotAllowed",
    "Explanation",
    "ExpressionError",
    "Fact",
    "Fenced",
    "Formula",
    "Graph",
    "GraphError",
    "HandleMisused",
    "IllegalMove",
    "InputMismatch",
    "InvalidInput",
    "InvalidValue",
    "KeyReused",
    "Node",
    "NodeFailed",
    "NodeNotFound",
    "NodeState",
    "NodeView",
    "NodeWithoutOutput",
    "NotAllSubmitted",
    "NotAnAncestor",
    "NotJson",
    "NotRedriven",
    "Path",
    "PathNotInOutput",
    "Permanent",
    "PolicyNotFound",
    "Question",
    "QueueClass",
    "RateLimited",
    "RequestRefused",
    "Retry",
    "RunArchived",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunHandle",
    "RunLost",
    "RunNotFound",
    "RunState",
    "SafetyRefused",
    "Secret",
    "SecretMissing",
    "SelfLoop",
    "Settings",
    "SettingsError",
    "SignalRefused",
    "StoreError",
    "StoreFull",
    "StoreRefused",
    "StoreTooNew",
    "StoreUnreachable",
    "StoreUnsafe",
    "Submission",
    "Summary",
    "TimedOut",
    "Timing",
    "TooLarge",
    "Transient",
    "UnknownClass",
    "UnknownExecutor",
    "UnknownMapper",
    "UnknownNode",
    "UnknownTool",
    "UnreadableDocument",
    "VersionMismatch",
    "WaitTimeout",
    "WireError",
    "__version__",
    "again",
    "capability",
    "changed",
    "escalate",
    "has",
    "other",
    "size",
    "tool",
    "within",
]

_HOME = {
    "Choice": "graph",
    "Client": "client",
    "Completed": "client",
    "Edge": "graph",
    "Event": "client",
    "Explanation": "client",
    "Fact": "client",
    "Formula": "graph",
    "Graph": "graph",
    "Node": "graph",
    "NodeState": "core.states",
    "NodeView": "client",
    "Path": "graph",
    "Question": "store.approvals",
    "QueueClass": "settings",
    "Retry": "graph",
    "RunHandle": "client",
    "RunState": "core.states",
    "Secret": "graph",
    "Settings": "settings",
    "Submission": "client",
    "Summary": "store.summaries",
    "Timing": "graph",
    "again": "graph",
    "capability": "graph",
    "changed": "graph",
    "escalate": "graph",
    "has": "graph",
    "other": "graph",
    "size": "graph",
    "tool": "graph",
    "within": "graph",
}
"""Where names live that are not errors; the others are in errors.py."""


if not TYPE_CHECKING:  # with it, type checkers would take every misspelt name for Any

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
