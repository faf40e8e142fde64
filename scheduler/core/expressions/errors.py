"""What can be wrong with the value of an expression, and what `look` says when something is not there.

::

    CeleriacError
    ├── EvaluationError     is well written, but has no value with what the nodes gave; `.kind`, `.seen`
    └── Missing             said by `look`: a step of a path is not there (also a LookupError)

Neither leaves the core: a node that they end tells them in its error record. What is wrong with the text of an
expression is an `ExpressionError` of scheduler/errors.py. As everywhere, facts are attributes and every error pickles.
"""

from __future__ import annotations

from ...errors import CeleriacError, escaped

Seen = tuple[tuple[str, str], ...]
"""What was read: (the read as text, the JSON of its value, cut), in order of first use."""

REMEDIES = {
    "type": "Correct the expression, or what the executor returns",
    "missing": "Ask has() or size() first",
    "number": "Ask for the case first, with && or ?:",
    "limit": "Decide on less, or decide in an executor",
}


class EvaluationError(CeleriacError):
    """An expression has no value, given what the nodes gave.

    Attributes:
        text: the expression.
        kind: "type" (an operand of another type), "missing" (a field or item that is not there), "number" (overflow,
            division by zero), "limit" (it costs too much).
        problem: what is wrong.  seen: what was read until then, as (text of the read, JSON of the value).
    """

    def __init__(self, text: str, kind: str, problem: str, seen: Seen = ()) -> None:
        self.text = text
        self.kind = kind
        self.problem = problem
        self.seen = tuple(seen)
        read = ", ".join(f"{name} = {value}" for name, value in self.seen[:5])
        if len(self.seen) > 5:
            read += f", and {len(self.seen) - 5} more"
        super().__init__(
            f"{escaped(text, 200)}: {problem}{f' ({escaped(read, 800)})' if read else ''}. "
            f"{REMEDIES.get(kind, REMEDIES['type'])}."
        )


class Missing(CeleriacError, LookupError):
    """A step of a path is not there; whoever answers reads says so, see `follow`.

    Attributes:
        step: how many steps of the path were there.  met: the value where the path ended; `...` if nobody knows.
    """

    def __init__(self, step: int = 0, met: object = ...) -> None:
        self.step = step
        self.met = met
        super().__init__(f"step {step} of the path is not there")


class Failure(Exception):
    """Inside an evaluation: this part has no value. The whole may still have one, by && or ||."""

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
