"""Every error that celeriac raises on purpose, and how each one reads.

::

    CeleriacError
    ├── GraphError              a graph that cannot be run as written (also a ValueError); `.at` says where
    │   ├── InvalidValue        a value of the wrong type, range or spelling
    │   │   ├── NotJson         not a JSON value: NaN, infinity, lone surrogate, set, bytes, object
    │   │   └── TooLarge        over a limit; `.size`, `.limit`, `.unit`
    │   ├── ExpressionError     a condition cannot be read, is too large, or can never be true or false; `.position`
    │   ├── UnreadableDocument  the text is not JSON or YAML, or says one key twice
    │   ├── HandleMisused       a handle stands where a value was meant: `if node.out.x:` (also a TypeError)
    │   ├── CycleFound          a -> b -> a
    │   ├── SelfLoop            a -> a
    │   ├── DuplicateNode       two nodes with one key
    │   ├── UnknownNode         a reference, `after` or `returns` to a key the graph does not have
    │   ├── NotAnAncestor       an "ancestor" reference to a node that need not end before this one starts
    │   ├── PathNotInOutput     a path that the producer's published output cannot have
    │   ├── UnknownExecutor     no worker has published an executor of that name
    │   │   └── UnknownTool     nor a tool of that name, or of that version
    │   ├── UnknownMapper       no mapper of that name is deployed
    │   ├── VersionMismatch     the executor has another version than the run or the node needs; `.version`
    │   ├── UnknownClass        no queue class of that name is declared
    │   ├── ExecutorNotAllowed  the executor may not run in the node's queue class
    │   └── InputMismatch       a literal input that the executor's published input schema refuses
    ├── RunError                a run, seen from the client; `.run`
    │   ├── RunFailed           ended failed; `.causes`
    │   ├── RunCancelled        ended cancelled; `.reason`
    │   ├── NodeFailed          a node ended failed; the remote kind, type, message, traceback, attempt
    │   ├── NodeWithoutOutput   a node ended skipped, upstream_failed or cancelled, so it has no output
    │   ├── RunNotFound         no such run (also a LookupError)
    │   │   ├── RunLost         it was here, and is no more: the store went back in time, or it was removed
    │   │   └── RunArchived     it ended and was removed from Redis; `.place` says where its archive is
    │   ├── NodeNotFound        the run has no such node (also a LookupError)
    │   ├── SignalRefused       nothing in the run waits, or will ever wait, for such a signal; `.reason`
    │   ├── AnswerRefused       an approval was not answered: nothing is asked there, or not you; `.reason`
    │   ├── RequestRefused      the scheduler does not do what was asked of a run; `.why`
    │   ├── WaitTimeout         not ended in time; the run goes on (also a TimeoutError)
    │   └── KeyReused           the idempotency key belongs to a run of another graph
    ├── StoreError              Redis
    │   ├── StoreUnreachable    no answer (also a ConnectionError)
    │   ├── StoreFull           no room for another run; `.used_bytes`, `.limit_bytes`
    │   ├── StoreUnsafe         it answers, but may lose what it acknowledged
    │   │   └── StoreRefused    so a scheduler that is told to be strict does not work with it; `.problems`
    │   ├── StoreTooNew         its layout is newer than this version understands
    │   └── Fenced              this process no longer owns the shard; drop what is in memory
    ├── NotAllSubmitted         of many graphs some were not stored; `.runs`, `.errors`
    ├── ArchiveError            the archive of ended runs cannot be read or written
    ├── BundleError             a file that is no exported run, or not as it was written
    ├── DeadLetterNotFound      no such dead letter (also a LookupError)
    ├── PolicyNotFound          no policy of such a version (also a LookupError)
    ├── NotRedriven             a dead letter that cannot be put back; `.reason`
    ├── IllegalMove             a state change that the table of moves does not have
    ├── WireError               a record from another process that cannot be read
    ├── SettingsError           a setting, file or environment variable that cannot be used
    └── ExecutorError           raised inside an executor to say how an attempt ended; `.kind`
        ├── Transient           try again by the retry policy (what any other exception means)
        ├── RateLimited         try again, not before `.retry_after_seconds`
        ├── TimedOut            it took too long; try again
        ├── InvalidInput        these inputs can never work; no retry
        ├── ContractBroken      the output is not what was declared; never passed on
        ├── SafetyRefused       a rule of safety forbids it
        ├── BudgetExceeded      it would cost too much
        ├── Cancelled           nobody wants it any more
        └── Permanent           no retry will help
            └── SecretMissing   the worker has no secret of the name that an input refers to

Standard library only; imported by every room. Facts are attributes, so that nobody parses a message; every
error pickles, whatever its constructor asks for. Messages say what was found, where, and what to do, and show
text from outside escaped and cut, because they end on terminals and pages.
A new error is one class here, one line in this tree and one row in tests/unit/test_errors.py.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

SHOWN_CHARACTERS = 120
_AROUND = 60
"""Characters of an expression that are shown on either side of what is wrong with it."""
MESSAGE_CHARACTERS = 2_000


class _Shortened(reprlib.Repr):
    """repr() that stays short on deep, wide or very long values and never raises."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 4, 4, 4
        self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 4
        self.maxstring = self.maxother = self.maxlong = SHOWN_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        """Integers too long for str() are named by their length in bits."""
        try:
            return str(super().repr_int(x, level))
        except ValueError:
            return f"<int of {x.bit_length()} bits>"


_shortened = _Shortened()


def shown(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    r"""A value from outside as it may stand in a message: quoted, escaped, at most about `limit` characters.

    >>> shown("tab\there")
    "'tab\\there'"
    >>> shown("x" * 500, limit=10)
    "'xxxxxxxxxx'... (500 characters)"
    """
    if isinstance(value, str):
        text = str(value)
        return repr(text) if len(text) <= limit else f"{text[:limit]!r}... ({len(text)} characters)"
    try:
        text = _shortened.repr(value)
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything; a message must not fail because of it
        text = f"<{type(value).__name__}>"
    return escaped(text, limit)


def escaped(text: str, limit: int = MESSAGE_CHARACTERS, *, keep: str = "") -> str:
    r"""Text from outside without quotes: unprintable characters as escapes, cut after `limit` characters.

    `keep` names characters that pass as they are, such as line ends in a traceback.

    >>> escaped("red \x1b[31m alert")
    'red \\x1b[31m alert'
    """
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(c if c in keep or c.isprintable() else repr(c)[1:-1] for c in cut)
    return cut if len(text) <= limit else f"{cut}... ({len(text)} characters)"


_CREDENTIALS = re.compile(r"(?<=://)([^\s/?#:@]*):[^\s/]*@")
_IN_QUERY = re.compile(r"(?i)([?&](?:[a-z_]*(?:password|passwd|secret|token))=)[^&\s'\"]*")


def masked(text: str) -> str:
    """A text without the passwords of URLs in it, for whatever is stored, logged or shown.

    >>> masked("cannot reach redis://app:s3cret@host:6379/0, nor amqp://u:p@h//")
    'cannot reach redis://app:***@host:6379/0, nor amqp://u:***@h//'
    """
    if "://" not in text:
        return text
    return _IN_QUERY.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", text))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known names, or the empty string when there are none.

    >>> did_you_mean("laod", ["load", "train"])
    " Did you mean 'load'?"
    """
    # bounded on purpose: difflib is quadratic, and graphs may have a hundred thousand keys
    candidates = [k for k, _ in zip(known, range(2_000), strict=False)]
    close = difflib.get_close_matches(name[:100], candidates, n=3) if candidates else []
    return f" Did you mean {' or '.join(shown(c) for c in close)}?" if close else ""


def _sentence(text: str) -> str:
    """Ends with a full stop, whether or not whoever wrote it thought of one."""
    return text if not text or text.endswith((".", "?", "!")) else text + "."


def _rebuild(cls: type[CeleriacError], args: tuple[Any, ...], facts: dict[str, Any]) -> CeleriacError:
    """What unpickling calls: the error again, without running its constructor."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class CeleriacError(Exception):
    """What every error of celeriac is; catch this to catch them all."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


# --- graphs -------------------------------------------------------------------------------------------------


class GraphError(CeleriacError, ValueError):
    """A graph that cannot be run as written. Nothing was stored.

    Attributes:
        at: where, as a path into the document, such as ``nodes["load"].inputs["rows"][3]``; "" for the whole graph.
        phase: how far it came, one of PHASES; that of a node that failed stands in its NodeFailed.
    """

    phase: ClassVar[str] = "validate"

    def __init__(self, message: str, *, at: str = "") -> None:
        super().__init__(message)
        self.at = at


class InvalidValue(GraphError):
    """A field holds a value of the wrong type, range or spelling.

    Attributes:
        at: the field.  found: the value as shown.  problem: what is wrong with it.  remedy: what to write instead.
    """

    def __init__(self, at: str, value: object, problem: str, remedy: str) -> None:
        self.found = shown(value)
        super().__init__(f"{at}: {self.found} {problem}. {remedy}", at=at)
        self.problem = problem
        self.remedy = remedy


class NotJson(InvalidValue):
    """A value that JSON cannot carry: NaN, infinity, a lone surrogate, a set, bytes, any other object."""


class TooLarge(InvalidValue):
    """Something is over a limit.

    Attributes:
        size: what was found.  limit: what is allowed.  unit: of both, such as "bytes".
    """

    def __init__(self, at: str, *, size: int, limit: int, unit: str, remedy: str, what: str = "") -> None:
        problem = f"is over the limit of {limit:,} {unit}"
        GraphError.__init__(self, f"{at}: {what + ' of ' if what else ''}{size:,} {unit} {problem}. {remedy}", at=at)
        self.found = f"{size:,} {unit}"
        self.problem = problem
        self.remedy = remedy
        self.size = size
        self.limit = limit
        self.unit = unit


class ExpressionError(GraphError):
    """An expression cannot be read, is too large, or can never have a value.

    Attributes:
        text: the expression; as it was written, or in its canonical form when the whole of it was looked at.
        position: where in `text`, counted from 0; the message counts from 1.
        problem: what is wrong.  remedy: what to write instead.
    """

    def __init__(self, text: str, position: int, problem: str, remedy: str, *, at: str = "") -> None:
        self.text = text
        self.position = position
        self.problem = problem
        self.remedy = remedy
        place = f"{at}: the expression" if at else "the expression"
        if text:
            place += f" {_around(text, position)} at character {position + 1}"
        super().__init__(f"{place}: {problem}. {remedy}", at=at)


def _around(text: str, position: int) -> str:
    """An expression in quotes; of a long one what stands around the position."""
    if len(text) <= 2 * _AROUND:
        return f"'{escaped(text)}'"
    start = max(0, position - _AROUND)
    end = start + 2 * _AROUND
    return f"'{'...' if start else ''}{escaped(text[start:end])}{'...' if end < len(text) else ''}'"


class UnreadableDocument(GraphError):
    """The text of a graph is not JSON or YAML, or an object in it says one key twice.

    Attributes:
        line, column: where in the text, counted from 1; None when unknown.
    """

    def __init__(
        self, problem: str, *, line: int | None = None, column: int | None = None, remedy: str = "", at: str = ""
    ) -> None:
        place = "the graph document" if line is None else f"the graph document, line {line}, column {column}"
        super().__init__(f"{place}: {problem}.{' ' + remedy if remedy else ''}", at=at)
        self.problem = problem
        self.line = line
        self.column = column


class HandleMisused(GraphError, TypeError):
    """A handle of a node stands where Python needs a value that exists only when the run has come that far."""


class CycleFound(GraphError):
    """The graph has a cycle.

    Attributes:
        nodes: the keys along the cycle, the first one not repeated at the end.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        names = [escaped(n, SHOWN_CHARACTERS) for n in (*self.nodes, self.nodes[0])]
        if len(names) > 21:
            names[10:-10] = [f"... ({len(names) - 20} more) ..."]
        super().__init__(
            f"the graph has a cycle: {' -> '.join(names)}. Remove one of these edges, or split "
            f"{shown(self.nodes[0])} into two nodes.",
            at=f"nodes[{quoted(self.nodes[0])}]",
        )


class SelfLoop(GraphError):
    """A node depends on itself.

    Attributes:
        node: its key.
    """

    def __init__(self, node: str, at: str) -> None:
        self.node = node
        super().__init__(
            f"{at}: node {shown(node)} depends on itself. Remove this reference; to repeat work, "
            "add a second node or a retry policy.",
            at=at,
        )


class DuplicateNode(GraphError):
    """Two nodes have one key.

    Attributes:
        node: the key.
    """

    def __init__(self, node: str, at: str) -> None:
        self.node = node
        super().__init__(f"{at}: the graph already has a node {shown(node)}. Give one of the two another key.", at=at)


class UnknownNode(GraphError):
    """Something refers to a key that the graph does not have.

    Attributes:
        node: the key that is missing.
    """

    def __init__(self, node: str, at: str, known: Iterable[str] = ()) -> None:
        self.node = node
        super().__init__(
            f"{at}: the graph has no node {shown(node)}.{did_you_mean(node, known)} "
            "Add that node, or correct the reference.",
            at=at,
        )


class NotAnAncestor(GraphError):
    """A reference that makes no edge points to a node that need not have ended when this one starts.

    Attributes:
        node: the node that refers.  ancestor: the node it refers to.
    """

    def __init__(self, node: str, ancestor: str, at: str) -> None:
        self.node = node
        self.ancestor = ancestor
        super().__init__(
            f"{at}: node {shown(ancestor)} is not an ancestor of {shown(node)}, so its output may not exist yet. "
            'Drop "ancestor" from the reference (of_ancestor() in Python) to make it an edge, or add an edge '
            "on the way.",
            at=at,
        )


class PathNotInOutput(GraphError):
    """A path that the producer's published output can never have.

    Attributes:
        node: the producer.  executor: its executor.  path: the whole path.  step: the position that fails.
        problem: why.
    """

    def __init__(
        self, at: str, *, node: str, executor: str, path: Sequence[str | int], step: int, problem: str, remedy: str = ""
    ) -> None:
        self.node = node
        self.executor = executor
        self.path = tuple(path)
        self.step = step
        self.problem = problem
        drawn = "output" + "".join(f"[{p}]" if isinstance(p, int) else f"[{quoted(p)}]" for p in self.path)
        super().__init__(
            f"{at}: the output of {shown(node)} ({escaped(executor, SHOWN_CHARACTERS)}) has no "
            f"{escaped(drawn, 300)}: {problem}. "
            f"{remedy or 'Correct the path, or the executor that publishes this output.'}",
            at=at,
        )


class UnknownExecutor(GraphError):
    """No worker has published an executor of that name.

    Attributes:
        executor: the name.
    """

    def __init__(self, executor: str, at: str, known: Iterable[str] = ()) -> None:
        self.executor = executor
        super().__init__(
            f"{at}: no worker has published an executor {shown(executor)}.{did_you_mean(executor, known)} "
            "Correct the name, or start a worker that has it.",
            at=at,
        )


class UnknownMapper(GraphError):
    """No mapper of that name and version is deployed.

    Attributes:
        mapper: the name.
    """

    def __init__(self, mapper: str, at: str, known: Iterable[str] = ()) -> None:
        self.mapper = mapper
        super().__init__(
            f"{at}: no mapper {shown(mapper)} is deployed.{did_you_mean(mapper, known)} "
            "Correct the name or the version, or deploy that mapper.",
            at=at,
        )


class UnknownTool(UnknownExecutor):
    """No worker has published a tool of that name, or none in that version.

    Attributes:
        executor: as documents write it: "tool:search@2".
        versions: of that tool that are known, the newest last.  tools: names of all that are, without any of that name.
    """

    phase: ClassVar[str] = "route"

    def __init__(self, executor: str, at: str, versions: Iterable[str] = (), tools: Iterable[str] = ()) -> None:
        self.executor = executor
        self.versions = tuple(versions)
        self.tools = tuple(tools)
        name, _, version = executor.partition(":")[2].partition("@")
        if self.versions:
            known = f"Known versions of it: {_listed(self.versions)}."
            what = f"version {escaped(version, 60)} of the tool {shown(name)}"
        else:
            known = f"Known tools: {_listed(self.tools) or 'none'}.{did_you_mean(name, self.tools)}"
            what = f"a tool {shown(name)}"
        GraphError.__init__(
            self,
            f"{at}: no worker has published {what}. {known} Correct it, start a worker that offers it "
            "(@executor(tools=[...])), or bind it (celeriac tools bind).",
            at=at,
        )


def _listed(names: tuple[str, ...]) -> str:
    """Names in a message, at most twenty."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(escaped(it, 60) for it in names[:20]) + more


class VersionMismatch(GraphError):
    """An executor has another version than a node asks for, or another major version than when its run was submitted.

    Attributes:
        executor: its name.  version: that it has now.
        asked: what the node asks for, None for nothing.  before: its version when the run was submitted, else None.
    """

    phase: ClassVar[str] = "route"

    def __init__(
        self, executor: str, version: str, at: str, *, asked: str | None = None, before: str | None = None
    ) -> None:
        self.executor = executor
        self.version = version
        self.asked = asked
        self.before = before
        now = f"{at}: the executor {shown(executor)} has version {escaped(version, 60)} now, and "
        if asked is not None:
            what = f"{asked} or later, before {int(asked.partition('.')[0]) + 1}" if "." in asked else f"{asked}"
            told = f"the node asks for {what}. Start workers of that version, or submit with another executor_version."
        else:
            was = escaped(before or "", 60)
            told = (
                f"had {was} when the run was submitted: another major version. Submit the graph again to run with it, "
                f"or start workers of {was} again and pin such nodes (executor_version="
                f"{shown(was.partition('.')[0])})."
            )
        super().__init__(now + told, at=at)


class UnknownClass(GraphError):
    """No queue class of that name is declared.

    Attributes:
        queue_class: the name.
    """

    def __init__(self, queue_class: str, at: str, known: Iterable[str] = ()) -> None:
        self.queue_class = queue_class
        names = sorted(known)
        listed = f" Declared are: {', '.join(escaped(n, 60) for n in names[:20])}." if names else ""
        super().__init__(
            f"{at}: no queue class {shown(queue_class)} is declared.{listed} "
            "Correct the name, or declare the class in queues.toml.",
            at=at,
        )


class ExecutorNotAllowed(GraphError):
    """A node's executor may not run in its queue class.

    Attributes:
        executor: its name.  queue_class: the class that the node would go to.
    """

    phase: ClassVar[str] = "route"

    def __init__(self, executor: str, queue_class: str, allowed: Iterable[str] = (), at: str = "executor") -> None:
        self.executor = executor
        self.queue_class = queue_class
        patterns = ", ".join(escaped(it, 60) for it in tuple(allowed)[:20])
        super().__init__(
            f"{at}: {shown(executor)} may not run in the queue class {shown(queue_class)}, which is for "
            f"{patterns or 'nothing'}. Name another queue_class, or add it to that class's `executors` in queues.toml.",
            at=at,
        )


class InputMismatch(GraphError):
    """An input that the executor's published input schema refuses.

    Attributes:
        executor: its name.  problem: what the schema wants.
    """

    def __init__(self, at: str, *, executor: str, problem: str, remedy: str) -> None:
        self.executor = executor
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{at}: {problem} (executor {shown(executor)}). {remedy}", at=at)


# --- runs ---------------------------------------------------------------------------------------------------


class RunError(CeleriacError):
    """Something about a run, seen from the client.

    Attributes:
        run: the run's id.
    """

    def __init__(self, message: str, *, run: str = "") -> None:
        super().__init__(message)
        self.run = run


class SignalRefused(RunError):
    """A signal that nothing in the run waits, or will ever wait, for.

    Attributes:
        name: of the signal.  reason: why.
    """

    def __init__(self, run: str, name: str, reason: str, remedy: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"run {run} takes no signal {shown(name)}: {reason}. {remedy}", run=run)


class AnswerRefused(RunError):
    """An approval that was not answered.

    Attributes:
        node: that was to be answered.  reason: why not.
    """

    def __init__(self, run: str, node: str, reason: str, remedy: str) -> None:
        self.node, self.reason = node, reason
        super().__init__(f"run {run}: node {shown(node)} takes no answer: {escaped(reason, 500)}. {remedy}", run=run)


class NodeFailed(RunError):
    """A node ended failed; carries what its last attempt reported.

    Attributes:
        node, run, attempt: which try of which node.
        kind: transient, rate_limited, timeout, lost, invalid_input, contract, permanent, safety, budget, cancelled.
        type: name of the remote exception class.  remote_message: its text.  traceback: its text, or "".
        origin: who is at fault, one of ORIGINS.  phase: where on its way the attempt was, one of PHASES.
        correlation_id: what the client gave the run to be found by elsewhere; without one the run's id.
        error: the whole record as it came.
    """

    def __init__(self, *, run: str, node: str, attempt: int, error: Mapping[str, Any]) -> None:
        self.node = node
        self.attempt = attempt
        self.error = dict(error)
        self.kind = str(error.get("kind") or "transient")
        self.type = str(error.get("type") or "Exception")
        self.remote_message = str(error.get("message") or "")
        self.traceback = str(error.get("traceback") or "")
        self.origin = str(error.get("origin") or "executor")
        self.phase = str(error.get("phase") or "execute")
        self.correlation_id = str(error.get("correlation_id") or run)
        remote = f"\n\nRemote traceback:\n{escaped(self.traceback, 20_000, keep=chr(10))}" if self.traceback else ""
        super().__init__(
            f"node {shown(node)} of run {escaped(run, 64)} failed in attempt {attempt} ({escaped(self.kind, 60)}): "
            f"{escaped(self.type, 200)}: {escaped(self.remote_message)}{remote}",
            run=run,
        )


class RunFailed(RunError):
    """The run ended failed.

    Attributes:
        causes: (node, error record) of the nodes that failed themselves, as many as were handed over.
    """

    def __init__(self, run: str, causes: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
        self.causes = tuple((node, dict(error)) for node, error in causes)
        listed = "; ".join(
            f"{shown(node)}: {escaped(str(error.get('type') or error.get('kind') or 'failed'), 100)}: "
            f"{escaped(str(error.get('message') or ''), 300)}"
            for node, error in self.causes[:5]
        )
        more = f"; and {len(self.causes) - 5} more" if len(self.causes) > 5 else ""
        super().__init__(
            f"run {escaped(run, 64)} failed{': ' + listed + more if listed else ''}. "
            f"See `celeriac runs show {escaped(run, 64)}`.",
            run=run,
        )


class RunCancelled(RunError):
    """The run ended cancelled.

    Attributes:
        reason: what whoever cancelled it said, or "".
    """

    def __init__(self, run: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(
            f"run {escaped(run, 64)} was cancelled{': ' + escaped(reason, 300) if reason else ''}. "
            "Submit it again under another idempotency key if its result is still wanted.",
            run=run,
        )


class NodeWithoutOutput(RunError):
    """The node ended, but not succeeded or failed, so there is no output to give.

    Attributes:
        node: its key.  state: skipped, upstream_failed or cancelled.  cause: why, or "".
    """

    def __init__(self, *, run: str, node: str, state: str, cause: str = "") -> None:
        self.node = node
        self.state = state
        self.cause = cause
        super().__init__(
            f"node {shown(node)} of run {escaped(run, 64)} ended {escaped(state, 60)}"
            f"{' (' + escaped(cause, 300) + ')' if cause else ''} and has no output. "
            f"See `celeriac runs show {escaped(run, 64)}`.",
            run=run,
        )


class RunNotFound(RunError, LookupError):
    """There is no such run here.

    Attributes:
        place: where ended runs are archived, when that is known and was not looked at.
    """

    def __init__(self, run: str, place: str | None = None) -> None:
        self.place = place
        there = f" Ended runs go to {escaped(place, 300)}: set CELERIAC_ARCHIVE_URL to look there too." if place else ""
        super().__init__(
            f"there is no run {shown(run)} in this store: the id is wrong, another Redis or namespace is meant, or "
            f"the run ended long ago and was removed. `celeriac runs ls` lists what is here.{there}",
            run=run,
        )


class RunLost(RunNotFound):
    """The run was in this store and is there no more: Redis lost what it had acknowledged, or the run was removed."""

    def __init__(self, run: str) -> None:
        RunError.__init__(
            self,
            f"run {escaped(run, 64)} was in this store and is there no more: Redis lost what it had acknowledged (a "
            "failover, a restart without its data, a restored backup), or the run was removed. Submit the graph again, "
            "under the same key if it had one; `celeriac doctor` looks for the cause.",
            run=run,
        )


class RunArchived(RunNotFound):
    """The run ended long ago and is not in Redis any more.

    Attributes:
        place: where it was archived, or None when that is not known.  what: why that is of no use here.
    """

    def __init__(self, run: str, place: str | None = None, what: str = "") -> None:
        self.what = what
        where = "thrown away" if place == "none" else f"archived to {escaped(place, 300)}" if place else "archived"
        super().__init__(run, place)
        remedy = _sentence(what) if what else "Set CELERIAC_ARCHIVE_URL to read it from there."
        self.args = (f"run {escaped(run, 64)} has ended, was {where} and removed from Redis. {remedy}",)


class NodeNotFound(RunError, LookupError):
    """The run exists, but its graph has no such node.

    Attributes:
        node: the key that was asked for.
    """

    def __init__(self, run: str, node: str, known: Iterable[str] = ()) -> None:
        self.node = node
        super().__init__(
            f"run {escaped(run, 64)} has no node {shown(node)}.{did_you_mean(node, known)} "
            f"`celeriac runs show {escaped(run, 64)}` lists its nodes.",
            run=run,
        )


class RequestRefused(RunError):
    """What was asked of a run does not fit how it stands, and nothing was changed.

    Attributes:
        verb: what was asked: cancel, skip, complete, rerun, deadline or priority.  why: it is refused.
    """

    def __init__(self, run: str, verb: str, why: str) -> None:
        self.verb = verb
        self.why = why
        super().__init__(
            f"run {escaped(run, 64)} refuses the {escaped(verb, 60)}: {escaped(why)}. "
            f"`celeriac runs show {escaped(run, 64)} --nodes` tells how its nodes stand.",
            run=run,
        )


class WaitTimeout(RunError, TimeoutError):
    """Nothing ended within the time that the caller was willing to wait. The run goes on.

    Attributes:
        seconds: how long it waited.  state: the run's state then.  node: the node waited for, or None.
    """

    def __init__(self, *, run: str, seconds: float, state: str = "", node: str | None = None) -> None:
        self.seconds = seconds
        self.state = state
        self.node = node
        what = f"node {shown(node)} of run {escaped(run, 64)}" if node is not None else f"run {escaped(run, 64)}"
        super().__init__(
            f"{what} has not ended after {seconds:g} seconds{' (state: ' + escaped(state, 60) + ')' if state else ''}. "
            f"It goes on; wait again, or see why with `celeriac runs show {escaped(run, 64)}`.",
            run=run,
        )


class KeyReused(RunError):
    """The idempotency key was used before, with another graph.

    Attributes:
        key: the key.  run: the run it belongs to.  graph_hash: of that run.  other_hash: of the graph submitted now.
    """

    phase: ClassVar[str] = "admit"

    def __init__(self, key: str, *, run: str, graph_hash: str, other_hash: str) -> None:
        self.key = key
        self.graph_hash = graph_hash
        self.other_hash = other_hash
        super().__init__(
            f"the idempotency key {shown(key)} belongs to run {escaped(run, 64)} of another graph "
            f"({escaped(graph_hash, 64)}, not {escaped(other_hash, 64)}). Submit the same graph, or use a key that "
            "differs whenever the graph does.",
            run=run,
        )


class NotAllSubmitted(CeleriacError):
    """Of many graphs that were submitted together, some are not stored, or nobody knows.

    Attributes:
        runs: for each graph, in their order, the id of its run; None where it is not stored, or that is unknown.
        errors: number of a graph, from 0 -> what `submit` of it alone would have raised. Once Redis has refused one, or
            did not answer, the others have the same error, and were not sent again.
    """

    phase: ClassVar[str] = "admit"

    def __init__(self, runs: Sequence[str | None], errors: Mapping[int, CeleriacError]) -> None:
        self.runs = list(runs)
        self.errors = dict(errors)
        first = min(self.errors)
        super().__init__(
            f"{len(self.errors)} of {len(self.runs)} graphs were not submitted, or that is unknown; the others are "
            f"stored (`.runs` has their ids). The first of them is graphs[{first}]: {self.errors[first]}"
        )


# --- store, core, wire, settings ----------------------------------------------------------------------------


class StoreError(CeleriacError):
    """Redis does not do what is needed."""


class StoreUnreachable(StoreError, ConnectionError):
    """Redis does not answer.

    Attributes:
        url: where it was looked for, without its password (the caller hides it).  reason: what the connection said.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"Redis at {escaped(url, 200)} does not answer: {escaped(reason, 300)}. Start it, or correct "
            "CELERIAC_REDIS_URL; `celeriac doctor` tells more."
        )


class StoreFull(StoreError):
    """Redis has no room for more. Nothing was stored; runs that are under way go on.

    Attributes:
        used_bytes: memory in use, None when unknown.  expected_bytes: what live runs and this one may come to take.
        limit_bytes: what may be used at this moment.  max_bytes: Redis's maxmemory. None when unknown, both.
    """

    phase: ClassVar[str] = "admit"

    def __init__(
        self,
        *,
        used_bytes: int | None = None,
        expected_bytes: int = 0,
        limit_bytes: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.used_bytes = used_bytes
        self.expected_bytes = expected_bytes
        self.limit_bytes = limit_bytes
        self.max_bytes = max_bytes
        if used_bytes is None or limit_bytes is None or max_bytes is None:
            found = "Redis has reached its maxmemory and takes no more"
        else:
            found = (
                f"Redis uses {used_bytes:,} bytes of memory"
                + (f", runs that live may come to take {expected_bytes:,} more" if expected_bytes else "")
                + f", and new runs are taken up to {limit_bytes:,} "
                f"(memory_guard, {limit_bytes / max_bytes if max_bytes else 0:.0%} of its maxmemory of {max_bytes:,})"
            )
        super().__init__(
            f"{found}; nothing was stored. Wait until running work has ended, remove old runs, or raise maxmemory; "
            "`celeriac doctor` tells more."
        )


class StoreUnsafe(StoreError):
    """Redis answers, but is set up so that it may lose what it acknowledged, or lacks what scripts need.

    Attributes:
        problem: what was found.  remedy: what to change.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}. {_sentence(remedy)}")


class StoreRefused(StoreUnsafe):
    """A strict scheduler will not work with this Redis.

    Attributes:
        url: without its password (the caller hides it).  problems: (what is wrong, what to do), at least one.
    """

    def __init__(self, url: str, problems: Iterable[tuple[str, str]]) -> None:
        self.url = url
        self.problems = tuple(problems)
        listed = "; ".join(
            f"{escaped(problem, 300)}. {_sentence(escaped(remedy, 300))}" for problem, remedy in self.problems
        )
        super().__init__(
            f"Redis at {escaped(url, 200)} may lose what it acknowledged, and strict is set: {listed.rstrip('.')}",
            "Or start without strict, at your own risk",
        )


class StoreTooNew(StoreError):
    """The store was laid out by a newer celeriac; nothing was read or written.

    Attributes:
        namespace: of the installation.  layout: the version of what stands there.  known: the newest one known here.
    """

    def __init__(self, namespace: str, layout: int, known: int) -> None:
        self.namespace = namespace
        self.layout = layout
        self.known = known
        super().__init__(
            f"the store of {escaped(namespace, 40)} has layout {layout}, and this celeriac understands {known}. "
            "Update this process, or name another namespace."
        )


class Fenced(StoreError):
    """A commit came from a process that no longer owns the shard; it was refused whole.

    Attributes:
        shard: its number.  epoch: the epoch of the refused commit.  current: the epoch now, or None if unknown.
    """

    def __init__(self, shard: int, epoch: int, current: int | None = None) -> None:
        self.shard = shard
        self.epoch = epoch
        self.current = current
        now = f", the current one is {current}" if current is not None else ""
        super().__init__(
            f"shard {shard}: epoch {epoch} was taken over{now}; nothing was written. Drop what is in memory of this "
            "shard and take its lease anew."
        )


class ArchiveError(CeleriacError):
    """The archive of ended runs cannot be read or written; what is not archived stays in Redis.

    Attributes:
        place: folder or URL, without its password (the caller hides it).  reason: what it said.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(
            f"the archive {escaped(place, 300)} cannot be used: {escaped(reason, 500)}. Correct CELERIAC_ARCHIVE_URL "
            "or the rights there; `celeriac doctor` tells more."
        )


class BundleError(CeleriacError):
    """A file that is no bundle of an exported run, or not as it was written.

    Attributes:
        path: of the file.  reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{escaped(path, 300)} {escaped(reason, 500)}. Export the run again with `celeriac runs export`, by a "
            "version that is not newer than this one."
        )


class DeadLetterNotFound(CeleriacError, LookupError):
    """There is no such dead letter here.

    Attributes:
        id: what was asked for.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(
            f"there is no dead letter {shown(id)}: the id is wrong, it was put back or dropped, or newer ones have "
            "pushed it out. `celeriac dead ls` lists what is here."
        )


class PolicyNotFound(CeleriacError, LookupError):
    """There is no such version of a policy here.

    Attributes:
        version: what was asked for.  known: versions that are here.
    """

    def __init__(self, version: str, known: Iterable[str] = ()) -> None:
        self.version = version
        self.known = tuple(known)
        hint = did_you_mean(version, self.known)
        super().__init__(
            f"there is no policy of version {shown(version)}.{hint} `celeriac policy ls` lists what is here, "
            "`celeriac policy apply` deploys another."
        )


class NotRedriven(CeleriacError):
    """A dead letter cannot be put back where it came from; it stays.

    Attributes:
        id: of the letter.  reason: what is in the way.
    """

    def __init__(self, id: str, reason: str) -> None:
        self.id = id
        self.reason = reason
        super().__init__(f"dead letter {escaped(id, 64)} stays where it is: {_sentence(reason)}")


class IllegalMove(CeleriacError):
    """A state change that the table of moves does not have; nothing was changed.

    Attributes:
        subject: what was to move, such as "node 3".  state: where it is.  move: what was asked.
        allowed: the moves that exist from that state.
    """

    def __init__(self, subject: str, state: str, move: str, allowed: Iterable[str] = ()) -> None:
        self.subject = subject
        self.state = state
        self.move = move
        self.allowed = tuple(allowed)
        listed = ", ".join(self.allowed) if self.allowed else "none"
        super().__init__(
            f"{escaped(subject, 300)} is {escaped(state, 60)} and cannot move by {escaped(move, 60)}; moves from "
            f"there: {listed}. The event was not applied."
        )


class WireError(CeleriacError):
    """A record from another process cannot be read; it was not applied.

    Attributes:
        record: which kind, such as "report".  problem: what is wrong.  found: the offending part as shown.
    """

    def __init__(self, record: str, problem: str, found: object = None) -> None:
        self.record = record
        self.problem = problem
        self.found = "" if found is None else shown(found)
        super().__init__(
            f"{escaped(record, 60)} record: {problem}{': ' + self.found if self.found else ''}. It was set aside; "
            "check that all processes run compatible versions of celeriac."
        )


class SettingsError(CeleriacError):
    """A setting cannot be used.

    Attributes:
        where: file and field, or environment variable.  problem: what is wrong.  remedy: what to write instead.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        self.where = where
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{escaped(where, 300)}: {problem}. {_sentence(remedy)}")


# --- executors ----------------------------------------------------------------------------------------------


class ErrorKind(NamedTuple):
    """What one kind of error means.

    Attributes:
        origin: who is at fault, where nobody who saw it says otherwise.
        again: whether the same attempt once more may mend it.
        meaning: in words.
    """

    origin: str
    again: bool
    meaning: str


ERROR_KINDS = {
    "transient": ErrorKind("executor", True, "it may work next time; also what nothing else is known of"),
    "rate_limited": ErrorKind("external", True, "the other side asked for a pause"),
    "timeout": ErrorKind("executor", True, "it took longer than it may"),
    "lost": ErrorKind(
        "infrastructure", True, "a worker, message or connection went; counted apart, as it is no failure"
    ),
    "invalid_input": ErrorKind("contract", False, "these inputs can never work"),
    "contract": ErrorKind("contract", False, "the output is not what was declared"),
    "permanent": ErrorKind("executor", False, "the same again will end the same"),
    "safety": ErrorKind("policy", False, "a rule of safety forbids it"),
    "budget": ErrorKind("policy", False, "it would cost more than it may"),
    "cancelled": ErrorKind("policy", False, "somebody does not want it any more"),
}
"""The kinds of errors, of executors and of what the scheduler says itself: core and workers know no other table."""
ORIGINS = ("policy", "contract", "executor", "infrastructure", "external")
"""Who may be at fault."""
PHASES = ("validate", "admit", "route", "dispatch", "execute", "collect", "guard", "wait")
"""Where on its way an attempt was: its inputs are checked, it waits for its turn, gets an executor, goes out, runs, its
output is taken in; guard: an expression of the graph was asked; wait: it waited for somebody, or for time."""


class ExecutorError(CeleriacError):
    """Raise one of its kinds inside an executor to say how this attempt ended.

    Any other exception counts as `Transient`, unless `@executor(errors=...)` or `install(app, errors=...)` says what it
    means. The message is the executor's own and travels in the report.

    Attributes:
        origin: who is at fault, one of ORIGINS; None for whom the kind means.
    """

    kind: ClassVar[str] = "transient"
    origin: str | None = None

    def __init__(self, message: str = "", *, origin: str | None = None) -> None:
        super().__init__(message)
        if origin is not None:
            if origin not in ORIGINS:
                raise InvalidValue("origin", origin, "is no origin of an error", f"Use one of {', '.join(ORIGINS)}.")
            self.origin = origin


class Transient(ExecutorError):
    """It may work next time: the node is tried again by its retry policy."""


class RateLimited(ExecutorError):
    """The other side asked for a pause: tried again by the retry policy, but not before the pause is over.

    Attributes:
        retry_after_seconds: length of the pause, or None when the other side did not say.
    """

    kind: ClassVar[str] = "rate_limited"

    def __init__(
        self, message: str = "", retry_after_seconds: float | None = None, *, origin: str | None = None
    ) -> None:
        super().__init__(message, origin=origin)
        self.retry_after_seconds = retry_after_seconds


class TimedOut(ExecutorError):
    """It took longer than the executor waits: tried again by the retry policy."""

    kind: ClassVar[str] = "timeout"


class InvalidInput(ExecutorError):
    """These inputs can never work: the node fails without another attempt."""

    kind: ClassVar[str] = "invalid_input"


class ContractBroken(ExecutorError):
    """The output is not what the executor declared: the node fails and the output is never passed on."""

    kind: ClassVar[str] = "contract"


class Permanent(ExecutorError):
    """No retry will help: the node fails without another attempt."""

    kind: ClassVar[str] = "permanent"


class SafetyRefused(ExecutorError):
    """A rule of safety forbids the work or its output: the node fails without another attempt."""

    kind: ClassVar[str] = "safety"


class BudgetExceeded(ExecutorError):
    """The work would cost more than it may: the node fails without another attempt."""

    kind: ClassVar[str] = "budget"


class Cancelled(ExecutorError):
    """Nobody wants the work any more, as the executor found out: the node fails without another attempt."""

    kind: ClassVar[str] = "cancelled"


class SecretMissing(Permanent):
    """An input refers to a secret that this worker does not have: the node fails without another attempt.

    Attributes:
        name: of the secret.  places: where it was looked for.
    """

    origin = "infrastructure"
    phase: ClassVar[str] = "dispatch"

    def __init__(self, name: str, places: Iterable[str] = ()) -> None:
        self.name = name
        self.places = tuple(places)
        looked = f"Looked for in {', '.join(self.places)}. " if self.places else ""
        super().__init__(
            f"there is no secret {shown(name)} on this worker. {looked}Set it there, or correct the name in the graph; "
            "then retry the run."
        )


def quoted(text: str) -> str:
    """A key as it stands inside the brackets of a field path: double quotes, escaped, cut.

    >>> quoted("load")
    '"load"'
    """
    return '"' + escaped(text, 80).replace('"', '\\"') + '"'
