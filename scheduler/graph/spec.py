"""The canonical form: one text, and so one hash, for a graph however it was written.

Pure. Nodes are sorted by key, keys of objects too, `after` is sorted and free of repeats, defaults are left
out, numbers of seconds are floats. The order in which nodes were declared is kept beside it, for it decides
which of two equal nodes comes first in the compiled form, but it is no part of the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring as _string
from typing import Any

from ..errors import InvalidValue, quoted
from .branching import Branching, Stop
from .handles import Reference
from .inputs import Inputs
from .limits import MAX_LABELS, kind_of, name_of
from .policy import Policy

FORMAT = 1
"""The value of "celeriac" in a document: the version of the format."""


class Spec:
    """One node as it was declared, checked by itself but not yet against the others."""

    __slots__ = ("after", "branching", "inputs", "key", "labels", "policy", "steps")

    def __init__(
        self,
        key: str,
        policy: Policy,
        inputs: Inputs,
        after: tuple[str, ...],
        labels: Mapping[str, str] | None,
        branching: Branching | None = None,
        steps: tuple[Inputs | None, ...] = (),
    ) -> None:
        self.key = key
        self.policy = policy
        self.inputs = inputs
        self.after = after
        self.labels = labels
        self.branching = branching
        self.steps = steps
        """For each step of its retry ladder the inputs of that, None where they are the node's own; () for no such."""

    @property
    def references(self) -> Sequence[Reference]:
        """Of its inputs, those of the steps of its ladder included."""
        if not self.steps:
            return self.inputs.references
        return [it for inputs in (self.inputs, *self.steps) if inputs is not None for it in inputs.references]

    def text(self) -> str:
        """Its canonical JSON."""
        args, kwargs = self.inputs.document_texts()
        after = f'"after":[{",".join(map(_string, self.after))}],' if self.after else ""
        args = f'"args":{args},' if args != "[]" else ""
        kwargs = f',"inputs":{kwargs}' if kwargs != "{}" else ""
        labels = f',"labels":{_json(self.labels)}' if self.labels else ""
        policy = self.policy
        if self.branching is not None:
            return self._guarded(self.branching, args, kwargs, labels)
        return f'{{{after}{args}{policy.executor_json}{kwargs},"key":{_string(self.key)}{labels}{policy.tail_json}}}'

    def _guarded(self, it: Branching, args: str, kwargs: str, labels: str) -> str:
        """The same for a node with expressions."""
        gates = {gate.key: gate.document() for gate in it.gates}
        after = f'"after":{_json([gates.get(key, key) for key in self.after])},' if self.after else ""
        when = "" if it.when is None else f',"when":{_json(it.when.text)}'
        tail = self.policy.tail_json
        if it.wait is not None and it.wait.document is not None:
            shown = f"{kwargs[1:]}," if kwargs else ""
            wait = f',"wait":{_json(it.wait.document)}'
            return f'{{{after}{shown}"key":{_json(self.key)}{labels}{tail}{wait}{when}}}'
        if it.race is not None:
            keep = f'"keep":{it.race.keep},' if it.race.keep != 1 else ""
            return f'{{{keep}"key":{_json(self.key)}{labels},"race":{_json(it.race.members)}}}'
        if it.choice is None:
            return f'{{{after}{args}{self.policy.executor_json}{kwargs},"key":{_json(self.key)}{labels}{tail}{when}}}'
        choice = f'"choice":{it.choice.text},"key":{_json(self.key)}{labels},"otherwise":{_json(it.choice.otherwise)}'
        return f"{{{after}{choice}{tail}{when}}}"


_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def graph_text(
    name: str, specs: Iterable[Spec], returns: str | None, stops: Iterable[Stop] = (), version: str | None = None
) -> str:
    """Canonical JSON of the whole graph, its nodes in the order given."""
    tail = "" if returns is None else f',"returns":{_json(returns)}'
    conditions = [stop.document() for stop in stops]
    tail += f',"stops":{_json(conditions)}' if conditions else ""
    tail += "" if version is None else f',"version":{_json(version)}'
    return f'{{"celeriac":{FORMAT},"name":{_json(name)},"nodes":[{",".join([s.text() for s in specs])}]{tail}}}'


def hash_of(text: str) -> str:
    """The hash of a canonical text: 32 hexadecimal digits of BLAKE2b.

    >>> hash_of("{}")
    '2afb9b83f9314e5d029766197f539792'
    """
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def after_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Keys of `after`, sorted, each once."""
    return tuple(sorted(set(keys)))


def labels_of(value: object, at: str) -> dict[str, str] | None:
    """Labels, checked: up to 64 names and texts.

    Raises:
        InvalidValue: not an object of texts, or too many.
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", 'Write {"name": "text"}.')
    if len(value) > MAX_LABELS:
        raise InvalidValue(at, f"{len(value)} labels", f"are more than {MAX_LABELS}", "Keep what is searched for.")
    found: dict[str, Any] = {}
    for name, text in value.items():
        checked = name_of(name, at)
        found[checked] = name_of(text, f"{at}[{quoted(checked)}]")
    return found or None
