"""A node that another executor does in its place when it has failed for good: one step more of its retry ladder.

Pure. So whoever waits for the node knows one handle and sees one outcome, whoever gave it, and a chain of fallbacks
(provider A, then B, then what was kept of last time) is a chain of calls.
"""

from __future__ import annotations

from dataclasses import replace

from .ladder import Step, again
from .policy import Retry
from .rungs import StepWalk
from .spec import Spec


def with_fallback(spec: Spec, graph: object, step: Step, retry: Retry) -> Spec:
    """A node that is done by another executor when all that was tried before has failed for good.

    Args:
        graph: the builder.
        step: an `other`, with what it is to be given.
        retry: how often that is tried; a policy without steps of its own.

    Raises:
        InvalidValue: there are too many steps by now.
        GraphError: inputs that no node may have.
    """
    before = spec.policy.retry
    steps = before.steps or (_as_step(before),)
    text, inputs = "", None
    if step.given is not None:
        walk = StepWalk(spec.key, graph, len(steps))
        inputs = walk.inputs((), step.given)
        text = inputs.document_texts()[1]
    last = replace(
        step,
        attempts=retry.max_attempts,
        base_seconds=retry.base_seconds,
        cap_seconds=retry.cap_seconds,
        factor=retry.factor,
        inputs_text=text,
    )
    after = before.with_steps((*steps, last), last.attempts)
    policy = replace(spec.policy, retry=after)
    ways = (*(spec.steps or (None,) * len(steps)), inputs)
    given = ways if any(ways) else ()
    return Spec(spec.key, policy, spec.inputs, spec.after, spec.labels, spec.branching, given)


def _as_step(retry: Retry) -> Step:
    """The simple policy as the one step that it means."""
    return replace(
        again(retry.max_attempts),
        base_seconds=retry.base_seconds,
        cap_seconds=retry.cap_seconds,
        factor=retry.factor,
    )
