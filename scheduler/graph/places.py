"""Places of references, for errors: worked out only when there is one.

Pure.
"""

from __future__ import annotations

from .rungs import StepWalk
from .spec import Spec
from .values import Walk


def references_at(spec: Spec) -> list[str]:
    """Places of a node's references, in their order; for errors only."""
    walk = Walk(spec.key, None)
    found = [walk.place(trail) for trail in spec.inputs.gaps()]
    for number, inputs in enumerate(spec.steps):
        if inputs is not None:
            walk = StepWalk(spec.key, None, number)
            found += [walk.place(trail) for trail in inputs.gaps()]
    return found
