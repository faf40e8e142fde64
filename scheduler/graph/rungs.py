"""Steps of a retry policy where they stand: in a graph document, and on a node, whose inputs they change.

Pure. What a step is stands in ladder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.ladder import CHANGED, ESCALATE, OTHER
from ..errors import InvalidValue, quoted
from .capability import executor_of
from .inputs import Inputs, Trail
from .ladder import DEFAULT_ATTEMPTS, STEP_FIELDS, Step, kinds_of, names_of, question_of, step_of
from .limits import MIN_SECONDS, check_limits, kind_of, name_of, only_fields, plain_seconds
from .values import Walk, kwargs_of


def step_from_document(value: object, at: str) -> Step:
    """The step that a graph document writes as an object; durations are numbers there.

    Raises:
        InvalidValue: a field that the step does not have, or a value that it cannot have.
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(at, value, f"is not an object but {kind_of(value)}", 'Write {"step": "again", ...}.')
    step = value.get("step")
    if not isinstance(step, str) or step not in STEP_FIELDS:
        raise InvalidValue(f"{at}.step", step, "is not a step", f"Write one of {', '.join(STEP_FIELDS)}.")
    fields = only_fields(value, STEP_FIELDS[step], at)
    on = fields.get("on")
    if "on" in fields and not isinstance(on, list | tuple):
        raise InvalidValue(f"{at}.on", on, f"is not a list but {kind_of(on)}", 'Write ["timeout", ...].')
    if step == ESCALATE:
        kinds = kinds_of(on, step, f"{at}.on")
        question = question_of(fields.get("question"), f"{at}.question")
        to = fields.get("to", ())
        if not isinstance(to, list | tuple):
            raise InvalidValue(f"{at}.to", to, f"is not a list but {kind_of(to)}", 'Write ["name", ...].')
        return Step(step, 1, kinds, question=question, to=names_of(to, f"{at}.to"))
    base, cap = (plain_seconds(fields.get(f"{it}_seconds", d), f"{at}.{it}_seconds", 0) for it, d in _WAIT_DEFAULTS)
    attempts = fields.get("attempts", DEFAULT_ATTEMPTS[step])
    it = step_of(step, attempts, on, None, base, cap, fields.get("factor", 2.0), fields.get("jitter", "full"), at)
    if step == CHANGED or "inputs" in fields:
        given = kwargs_of(fields.get("inputs"), f"{at}.inputs")
        if not given and step == CHANGED:
            raise InvalidValue(f"{at}.inputs", {}, "changes nothing", "Name an input.")
        it = replace(it, given=given)
    if step != OTHER:
        return it
    hard, soft = (fields.get(name) for name in ("timeout_seconds", "soft_timeout_seconds"))
    hard = None if hard is None else plain_seconds(hard, f"{at}.timeout_seconds", MIN_SECONDS)
    soft = None if soft is None else plain_seconds(soft, f"{at}.soft_timeout_seconds", MIN_SECONDS)
    check_limits(hard, soft, f"{at}.soft_timeout_seconds")
    queue_class = fields.get("queue_class")
    return replace(
        it,
        executor=executor_of(fields.get("executor"), f"{at}.executor"),
        queue_class=None if queue_class is None else name_of(queue_class, f"{at}.queue_class"),
        timeout_seconds=hard,
        soft_timeout_seconds=soft,
    )


_WAIT_DEFAULTS = (("base", 1.0), ("cap", 60.0))


def bound(
    steps: tuple[Step, ...], key: str, graph: object | None, args: Any, kwargs: Mapping[str, Any]
) -> tuple[tuple[Step, ...], tuple[Inputs | None, ...]]:
    """Steps as those of one node, and for each the inputs of its attempts; None where these are the node's own.

    Args:
        key: of the node.
        graph: the builder whose handles may stand in inputs; None for a document.
        args, kwargs: the node's own inputs as they were handed over.

    Raises:
        InvalidValue: a person is to be asked, which this version cannot do.
        GraphError: inputs that no node may have.
    """
    found, ways = [], list[Inputs | None]()
    now, positional = kwargs, args
    same = True
    for number, step in enumerate(steps):
        if step.step == OTHER:
            same = step.given is None
            now, positional = (kwargs, args) if step.given is None else (step.given, ())
        elif step.given is not None:
            same, now = False, {**now, **step.given}
        text = ""
        if step.given is not None:
            text = StepWalk(key, graph, number).inputs((), step.given).document_texts()[1]
        found.append(replace(step, inputs_text=text, given=step.given) if text else step)
        ways.append(None if same else StepWalk(key, graph, number).inputs(positional, now))
    return tuple(found), tuple(ways) if any(ways) else ()


class StepWalk(Walk):
    """A walk over the inputs of a step, which names their places as such."""

    __slots__ = ("step",)

    def __init__(self, node: str, graph: object | None, step: int) -> None:
        super().__init__(node, graph)
        self.step = step

    def place(self, trail: Trail) -> str:
        """The place in words of the document: ``nodes["load"].retry.steps[1].inputs["rows"]``."""
        node = f"nodes[{quoted(self.node)}]"
        return f"{node}.retry.steps[{self.step}]{super().place(trail).removeprefix(node)}"
