"""The builder: nodes added one by one, handles that make edges, and the graph as a document.

Pure. ``Graph.add`` returns a handle; handing it, or a part of it (``node.out.pages[0]``), to another node makes
the data edge. The same graph written in Python, JSON or YAML has one canonical form and one hash (spec.py).
Types: `add` infers what a node returns from its executor, so a client's `get(node)` is typed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, overload

from ..core.run import REGION
from ..errors import DuplicateNode, HandleMisused, InvalidValue, UnknownNode, quoted, shown
from ..versions import asked_of
from . import document as documents
from .branching import DEFAULT_OUTCOME, Gate, Stop, branches, branching, checked_stops, gates_of, stop
from .capability import Capability, Tool, executor_of
from .compile import CompiledGraph, compile_graph
from .fallback import with_fallback
from .formulas import Formula, formula_of, has, size, within
from .handles import Choice, Edge, Mapped, Node, Path
from .inputs import NO_INPUTS, Inputs
from .ladder import other
from .limits import MAX_NAME, Duration, check_limits, kind_of, name_of, seconds_of
from .policy import DEFAULT_RETRY, DEFAULT_RULE, Policy, Retry, choice_policy, rule_of
from .signatures import is_signature, read_signature
from .spec import Spec, after_of, graph_text, hash_of, labels_of
from .timing import NO_TIMING, Timing
from .values import Walk, kwargs_of
from .waiting import WaitingNodes

__all__ = [
    "Choice",
    "CompiledGraph",
    "Edge",
    "Formula",
    "Graph",
    "Node",
    "Path",
    "Retry",
    "Timing",
    "has",
    "size",
    "within",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Executor(Protocol[T_co]):
    """Whatever has a name and, called, gives T: a Celery task, or what ``@executor`` made."""

    @property
    def name(self) -> str:
        """The name under which workers know it."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> T_co:
        """What it returns is the node's output."""
        ...


After = Node[Any] | Path | Edge | str | Iterable["Node[Any] | Path | Edge | str"]
Condition = Formula | Path | str | bool
"""What `when` takes: a comparison of handles, or the text of an expression."""


class Graph(WaitingNodes):
    """A graph that is being written. Not thread-safe; build it where it is submitted.

    Args:
        name: what runs of it are called, 1 to 256 characters.
        version: of the graph, in your words; runs record it, and it is part of the hash.
        retry, timeout, soft_timeout, queue_class, labels: for every node added later that does not say its own.

    >>> g = Graph("digest")
    >>> page = g.add("web.fetch", url="https://example.org", key="front")
    >>> text = g.add("llm.summarise", page=page, words=120)
    >>> mail = g.add("mail.send", body=text.out.text, timeout="20s")
    >>> g.returns(text)
    >>> [node["key"] for node in g.document()["nodes"]]
    ['front', 'llm.summarise', 'mail.send']
    >>> Graph.from_yaml(g.to_yaml()).hash == g.hash
    True
    """

    def __init__(
        self,
        name: str,
        *,
        version: str | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        queue_class: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name_of(name, "name")
        self.version = None if version is None else name_of(version, "version")
        self._retry = DEFAULT_RETRY if retry is None else _retry(retry, "retry")
        self._timeout = None if timeout is None else seconds_of(timeout, "timeout")
        self._soft_timeout = None if soft_timeout is None else seconds_of(soft_timeout, "soft_timeout")
        check_limits(self._timeout, self._soft_timeout, "soft_timeout")
        self._queue_class = None if queue_class is None else name_of(queue_class, "queue_class")
        self._labels = None if labels is None else labels_of(labels, "labels")
        self._specs: dict[str, Spec] = {}
        self._returns: str | None = None
        self._stops: tuple[Stop, ...] = ()
        self._region = ""
        self._plain: dict[str, Policy] = {}  # executor -> policy of nodes that say nothing else
        self._policies: dict[Policy, Policy] = {}
        self._counters: dict[str, int] = {}
        self._hash: str | None = None

    @overload
    def add(
        self,
        executor: Executor[Coroutine[Any, Any, T_co]],
        /,
        *,
        key: str | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        timing: Timing | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        queue_class: str | None = None,
        executor_version: str | None = None,
        labels: Mapping[str, str] | None = None,
        args: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Node[T_co]: ...
    @overload
    def add(
        self,
        executor: Executor[T_co],
        /,
        *,
        key: str | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        timing: Timing | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        queue_class: str | None = None,
        executor_version: str | None = None,
        labels: Mapping[str, str] | None = None,
        args: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Node[T_co]: ...
    @overload
    def add(
        self,
        executor: str | dict[str, Any] | Capability | Tool,
        /,
        *,
        key: str | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        timing: Timing | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        queue_class: str | None = None,
        executor_version: str | None = None,
        labels: Mapping[str, str] | None = None,
        args: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Node[Any]: ...
    def add(  # noqa: PLR0913 - a node has that many properties, all of them optional and by keyword
        self,
        executor: Any,
        /,
        *,
        key: str | None = None,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        timing: Timing | None = None,
        retry: Retry | int | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        queue_class: str | None = None,
        executor_version: str | None = None,
        labels: Mapping[str, str] | None = None,
        args: Sequence[Any] = (),
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Node[Any]:
        """Adds a node and returns its handle. A handle or path anywhere inside the inputs makes an edge.

        Args:
            executor: a name, a Celery task, what ``@executor`` made, or a Celery signature (signatures.py says
                what becomes of its options).
            key: the node's name in this graph; default: the executor's, from the second on with "-2", "-3", ...
            after: nodes that must end first without handing anything over: handles, keys, or several of them; an edge
                that is open only under a condition is `node.when(...)` or a branch of a choice, `route["good"]`.
            when: whether the node runs at all, asked when the trigger rule lets it start; else it is skipped. A
                comparison of handles (formulas.py), or its text. Nodes that it reads become upstream, unless they are
                ancestors already.
            trigger_rule: which ends of the upstream nodes let this one start.
            timing: when it may begin, how long all of it may take, whether somebody outside ends it: a `Timing`.
            retry: a `Retry`, or how many attempts.
            timeout, soft_timeout: per attempt: seconds, "20s", "10m" or a timedelta; default: the executor's.
            queue_class: overrides the executor's class.
            executor_version: of its executor: a major version, "2", or a minor one at least, "2.1"; another is refused.
            labels: names and texts to find the node by.
            args: positional inputs.
            inputs: more inputs by name, for names that this method uses itself.
            kwargs: inputs by name.

        Raises:
            GraphError: a value that is not JSON, out of range, too large, or a handle of another graph.
        """
        decode = None
        if type(executor) is not str:
            if is_signature(executor):
                signature = read_signature(executor)
                executor, args = signature.executor, (*signature.args, *args)
                kwargs = _merged(signature.kwargs, kwargs, executor)
                timeout = signature.timeout if timeout is None else timeout
                soft_timeout = signature.soft_timeout if soft_timeout is None else soft_timeout
            elif not isinstance(executor, str):
                decode = getattr(executor, "decode", None)
                executor = _name_of_executor(executor)
        if inputs is not None:
            kwargs = _merged(kwargs, kwargs_of(inputs, "inputs"), executor)
        key = self._next_key(executor) if key is None else self._new_key(key)
        if not isinstance(args, list | tuple):
            raise InvalidValue(
                f"nodes[{quoted(key)}].args", args, f"is not a list but {kind_of(args)}", "Write args=[value, ...]."
            )
        steps: tuple[Inputs | None, ...] = ()
        tried = self._retry if retry is None else _retry(retry, f"nodes[{quoted(key)}].retry")
        if tried.steps:
            tried, steps = tried.bound(key, self, args, kwargs)
        unsaid = retry is timeout is soft_timeout is queue_class is executor_version is None
        unsaid = unsaid and timing is None and not tried.steps
        if trigger_rule == DEFAULT_RULE and unsaid:
            policy = self._plain.get(executor) or self._plain_policy(executor, key)
        else:
            policy = self._policy(
                executor, key, trigger_rule, tried, timeout, soft_timeout, queue_class, timing, executor_version
            )
        made = Walk(key, self).inputs(args, kwargs) if args or kwargs else NO_INPUTS
        keys, gates = self._after(after, key)
        guard = None if when is None else formula_of(when, f"nodes[{quoted(key)}].when", self).expression
        merged = (
            self._labels
            if labels is None
            else {**(self._labels or {}), **(labels_of(labels, f"nodes[{quoted(key)}].labels") or {})}
        )
        if self._region:
            merged = {REGION: self._region, **(merged or {})}
        says = branching(guard, gates, None, policy.timing.wait)
        self._specs[key] = Spec(key, policy, made, keys, merged or None, says, steps)
        self._hash = None
        return Node(self, key, decode)

    def choice(
        self,
        key: str,
        branches_: Mapping[str, Condition],
        /,
        *,
        otherwise: str,
        after: After = (),
        trigger_rule: str = DEFAULT_RULE,
        when: Condition | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Choice:
        """Adds a node that is no work but a decision: the first branch whose condition is true is taken.

            value = score.out.value
            route = g.choice("route", {"good": value >= 0.8, "fair": value >= 0.5}, otherwise="poor")
            g.add("cms.publish", after=route["good"])
            g.add("mail.send", after=route["poor"])

        What hangs on the other branches alone is skipped. The scheduler decides it itself; no worker is asked.

        Args:
            key: the node's name in this graph.
            branches_: name -> condition, asked in order.
            otherwise: name of the branch that is taken when none is true.
            after, trigger_rule, when, labels: as for any node.

        Raises:
            GraphError: no branch, a name twice, a condition that cannot be read, or a handle of another graph.
        """
        key = self._new_key(key)
        at = f"nodes[{quoted(key)}]"
        if not isinstance(branches_, Mapping):
            raise InvalidValue(f"{at}.choice", branches_, f"is {kind_of(branches_)}", "Write {name: condition, ...}.")
        pairs = [(name, formula_of(it, f"{at}.choice", self).expression) for name, it in branches_.items()]
        found = branches(pairs, otherwise, at)
        keys, gates = self._after(after, key)
        guard = None if when is None else formula_of(when, f"{at}.when", self).expression
        policy = choice_policy(rule_of(trigger_rule, f"{at}.trigger_rule"))
        own = {} if labels is None else labels_of(labels, f"{at}.labels") or {}
        if self._region:
            own = {REGION: self._region, **own}
        self._specs[key] = Spec(
            key,
            self._policies.setdefault(policy, policy),
            NO_INPUTS,
            keys,
            own or None,
            branching(guard, gates, found),
        )
        self._hash = None
        return Choice(self, key, found.names)

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Nodes that are added inside belong to a region, which can be cancelled as one (RunHandle.cancel_region).

            with g.region("prices"):
                eu = g.add("prices.load", market="eu")

        It is a label, `region`, so documents write `labels: {region: prices}`. Inside each other regions are named
        "prices/eu", and "prices" means both.

        Raises:
            GraphError: that is no name.
        """
        before, own = self._region, name_of(name, "region")
        self._region = name_of(f"{before}/{own}" if before else own, "region")
        try:
            yield
        finally:
            self._region = before

    def fallback(
        self,
        node: Node[T] | str,
        executor: Any,
        /,
        *,
        retry: Retry | int | None = None,
        on: Iterable[str] | None = None,
        queue_class: str | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        inputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Node[T]:
        """Another executor does a node in its place when it has failed for good; called again, after that one too.

            answer = g.add("llm.ask", q=q, retry=2)
            g.fallback(answer, "other_llm.ask")
            g.fallback(answer, "cache.lookup", q=q)

        It is one step more of the node's retry ladder (`other`), so the node has one handle, one outcome and one
        output; whose that is, is told as `fallback_from`.

        Args:
            node: its handle or key.
            executor: a name, a Celery task, or what `@executor` made.
            retry: how often the other executor is tried, a policy without steps; default: the graph's, as for a node.
            on: the kinds of error that it answers; default: all but safety, budget and cancelled.
            queue_class: where it runs; default: the executor's own.
            timeout, soft_timeout: per attempt; default: the node's.
            inputs, kwargs: what it gets, by name; default: the inputs of the node.

        Raises:
            GraphError: the node is a choice or not of this graph, or what no step of a ladder may have.
        """
        key = node if isinstance(node, str) else self._own(node, "fallback")
        spec = self._specs.get(key)
        if spec is None:
            raise UnknownNode(name_of(key, "fallback"), "fallback", self._specs)
        at = f"nodes[{quoted(key)}].fallback"
        if not spec.policy.executor:
            raise InvalidValue(at, key, "is no work, so nobody executes it", "Give it a default.")
        default = DEFAULT_RETRY if self._retry.steps else self._retry
        tried = default if retry is None else _retry(retry, f"{at}.retry")
        if tried.steps:
            raise InvalidValue(
                f"{at}.retry", retry, "has steps", "Say how often, and add the next by a call of its own."
            )
        given = None if inputs is None and not kwargs else _merged(kwargs, kwargs_of(inputs or {}, at), executor)
        step = other(executor, on=on, inputs=given, queue_class=queue_class, timeout=timeout, soft_timeout=soft_timeout)
        found = with_fallback(spec, self, step, tried)
        found.policy = self._policies.setdefault(found.policy, found.policy)
        self._specs[key] = found
        self._hash = None
        return node if isinstance(node, Node) else Node(self, key)

    def stop_when(self, condition: Condition, *, outcome: str = DEFAULT_OUTCOME, reason: str = "") -> None:
        """Ends the run once a condition is true: what has not begun is skipped, what runs ends by itself.

        Args:
            condition: asked whenever a node that it reads has moved; what is not there, or not yet, makes it not true.
            outcome: how the run ends then, "succeeded" or "failed".
            reason: in your words, for whoever asks why.

        Raises:
            GraphError: a condition that cannot be read, or a handle of another graph.
        """
        at = f"stops[{len(self._stops)}]"
        made = stop(formula_of(condition, f"{at}.when", self).expression, outcome, reason, at)
        self._stops = checked_stops((*self._stops, made))
        self._hash = None

    def returns(self, node: Node[Any] | str) -> None:
        """Says which node's output is the result of the run."""
        key = node if isinstance(node, str) else self._own(node, "returns")
        if key not in self._specs:
            raise UnknownNode(name_of(key, "returns"), "returns", self._specs)
        self._returns = key
        self._hash = None

    def node(self, key: str) -> Node[Any]:
        """The handle of a node that is in the graph already, for graphs read from documents.

        Raises:
            UnknownNode: there is none of that key.
        """
        if key not in self._specs:
            raise UnknownNode(name_of(key, "node"), "node", self._specs)
        return Node(self, key)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all nodes, in the order they were added."""
        return tuple(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __iter__(self) -> Iterator[Node[Any]]:
        return (Node(self, key) for key in self._specs)

    def __bool__(self) -> bool:
        return True  # a graph without nodes is still a graph

    def __repr__(self) -> str:
        return f"Graph({shown(self.name)}, {len(self._specs)} nodes)"

    @property
    def hash(self) -> str:
        """Hash of the canonical form: 32 hexadecimal digits, the same for Python, JSON and YAML."""
        if self._hash is None:
            specs = self._specs
            text = graph_text(self.name, [specs[k] for k in sorted(specs)], self._returns, self._stops, self.version)
            self._hash = hash_of(text)
        return self._hash

    def document(self) -> dict[str, Any]:
        """The graph as a document, defaults left out, nodes in the order they were added."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self) -> str:
        """The document as JSON on one line."""
        return graph_text(self.name, self._specs.values(), self._returns, self._stops, self.version)

    def to_yaml(self) -> str:
        """The document as YAML."""
        from .yamltext import to_yaml

        return to_yaml(self.document())

    @classmethod
    def from_document(cls, document: object) -> Graph:
        """A graph from a document as Python values.

        Raises:
            GraphError: and no other, whatever is handed over.
        """
        parsed = documents.parse(document)
        graph = cls(parsed.name, version=parsed.version)
        graph._specs = parsed.specs
        graph._returns = parsed.returns
        graph._stops = parsed.stops
        return graph

    @classmethod
    def from_json(cls, text: str | bytes) -> Graph:
        """A graph from JSON text. A key that stands twice in one object is refused.

        Raises:
            GraphError: see `UnreadableDocument` for the text, the others for what it says.
        """
        return cls.from_document(documents.from_json(text))

    @classmethod
    def from_yaml(cls, text: str | bytes) -> Graph:
        """A graph from YAML text (see yamltext.py for the YAML that is read).

        Raises:
            GraphError: see `UnreadableDocument` for the text, the others for what it says.
        """
        from .yamltext import from_yaml

        return cls.from_document(from_yaml(text))

    def compile(
        self,
        *,
        contracts: Mapping[str, Mapping[str, Any]] | None = None,
        classes: Collection[str] | None = None,
        mappers: Mapping[str, Any] | None = None,
    ) -> CompiledGraph:
        """Checks how the nodes hang together, and makes the form that is stored.

        Args:
            contracts: executor name -> published contract. When given and not empty, unknown executors, literal
                inputs that break the input schema and paths that the output schema cannot have are refused.
            classes: names of the queue classes. When given, others are refused.
            mappers: name -> definition (core/mappers.py), of all that are deployed. When given, others are refused, and
                what they read is compared with the output schemas, the names of what they give with the input schemas.

        Raises:
            GraphError: see errors.py. O(nodes + edges).
        """
        return compile_graph(
            self.name,
            self._specs,
            self._returns,
            self.hash,
            contracts,
            classes,
            self._stops,
            mappers=mappers,
            version=self.version,
        )

    def check(
        self,
        *,
        contracts: Mapping[str, Mapping[str, Any]] | None = None,
        classes: Collection[str] | None = None,
        mappers: Mapping[str, Any] | None = None,
    ) -> None:
        """The checks of `compile`, for whoever wants nothing else."""
        self.compile(contracts=contracts, classes=classes, mappers=mappers)

    # --- how add does it ---------------------------------------------------------------------------------

    def _next_key(self, executor: str) -> str:
        count = self._counters.get(executor, 0)
        while True:
            count += 1
            key = executor if count == 1 else f"{executor[: MAX_NAME - 8]}-{count}"  # a million has 7 digits
            if key not in self._specs:
                self._counters[executor] = count - 1  # not count: a node that is refused leaves its key free
                return key

    def _new_key(self, key: object) -> str:
        name = name_of(key, "key")
        if name in self._specs:
            raise DuplicateNode(name, at=f"nodes[{quoted(name)}].key")
        return name

    def _plain_policy(self, executor: str, key: str) -> Policy:
        policy = self._policy(executor, key, DEFAULT_RULE, self._retry, None, None, None)
        self._plain[executor] = policy
        return policy

    def _policy(
        self,
        executor: str,
        key: str,
        rule: object,
        retry: Retry,
        timeout: Duration | None,
        soft_timeout: Duration | None,
        queue_class: str | None,
        timing: Timing | None = None,
        version: str | None = None,
    ) -> Policy:
        at = f"nodes[{quoted(key)}]"
        hard = self._timeout if timeout is None else seconds_of(timeout, f"{at}.timeout")
        soft = self._soft_timeout if soft_timeout is None else seconds_of(soft_timeout, f"{at}.soft_timeout")
        check_limits(hard, soft, f"{at}.soft_timeout")
        policy = Policy(
            executor=executor_of(executor, "executor"),
            rule=rule_of(rule, f"{at}.trigger_rule"),
            retry=retry,
            timeout_seconds=hard,
            soft_timeout_seconds=soft,
            queue_class=self._queue_class if queue_class is None else name_of(queue_class, f"{at}.queue_class"),
            timing=NO_TIMING if timing is None else _timing(timing, f"{at}.timing"),
            executor_version=None if version is None else asked_of(version, f"{at}.executor_version"),
        )
        return self._policies.setdefault(policy, policy)

    def _after(self, after: object, key: str) -> tuple[tuple[str, ...], tuple[Gate, ...]]:
        """Keys of the nodes that end first, and the guards of edges from them."""
        if type(after) is tuple and not after:  # and no == here: it would write a formula of a path
            return (), ()
        at = f"nodes[{quoted(key)}].after"
        if isinstance(after, str | Node | Path | Edge):
            after = (after,)
        if not isinstance(after, Iterable) or isinstance(after, Mapping):
            raise InvalidValue(at, after, "is neither a node nor a key", "Hand over handles or keys of nodes.")
        keys, gates = [], []
        for i, one in enumerate(after):
            if isinstance(one, Edge):
                keys.append(self._own(one.node, f"{at}[{i}]"))
                guard = None if one.condition is None else one.condition.expression
                gates.append(Gate(keys[-1], guard, one.branch))
            else:
                keys.append(name_of(one, f"{at}[{i}]") if isinstance(one, str) else self._own(one, f"{at}[{i}]"))
        return after_of(keys), gates_of(gates, at)

    def _own(self, handle: object, at: str) -> str:
        """The key of a handle of this graph."""
        if isinstance(handle, Mapped):
            raise InvalidValue(at, handle, "is an input of a node and nothing else", "Leave .via(...) out here.")
        node = handle._celeriac_node if isinstance(handle, Path) else handle
        if not isinstance(node, Node):
            raise InvalidValue(at, handle, "is neither a node nor a key", "Hand over a handle or the key of a node.")
        if node._graph is not self:
            raise HandleMisused(f"{at}: node {shown(node.key)} belongs to another graph. Add it to this one.", at=at)
        return node.key


def _retry(value: object, at: str) -> Retry:
    return value if isinstance(value, Retry) else Retry(value, at=at)  # type: ignore[arg-type]  # checks it itself


def _timing(value: object, at: str) -> Timing:
    if not isinstance(value, Timing):
        raise InvalidValue(at, value, f"is no Timing but {kind_of(value)}", 'Write timing=Timing(delay="10m").')
    return value


def _merged(first: Mapping[str, Any], second: Mapping[str, Any], executor: object) -> dict[str, Any]:
    for name in second:
        if name in first:
            raise InvalidValue(
                f"inputs of {shown(executor)}", name, "is given twice", "Give each input once, as kwargs or in inputs=."
            )
    return {**first, **second}


def _name_of_executor(executor: object) -> str:
    name = getattr(executor, "name", None)
    if not isinstance(name, str):
        raise InvalidValue(
            "executor",
            executor,
            f"is {kind_of(executor)}, not an executor",
            "Hand over a name, a Celery task, an @executor function, or a signature.",
        )
    return name
