"""Errors of expressions: facts as attributes, messages that help, and a pickle round trip for every class."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from scheduler.core.expressions import EvaluationError, Missing
from scheduler.errors import CeleriacError, ExpressionError, GraphError

ERRORS: list[CeleriacError] = [
    ExpressionError("a.output = 1", 9, "'=' means nothing here", "Write ==.", at='nodes["b"].when'),
    EvaluationError("a.output > 1", "type", "string > int is not defined", (("a.output", '"x"'),)),
    Missing(1, {"k": None}),
    Missing(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda it: type(it).__name__)
def test_every_error_pickles_and_copies(error: CeleriacError) -> None:
    """Class, message and every fact come out of a pickle as they went in, under every protocol."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error) != ""
        assert vars(again) == vars(error)
    assert vars(copy.deepcopy(error)) == vars(error)
    names = set(inspect.signature(type(error).__init__).parameters) - {"self"}
    assert [name for name in names if not hasattr(error, name)] == []


def test_errors_are_what_python_and_the_house_call_them() -> None:
    """A bad expression is a graph that cannot be run; what has no value is no fault of the graph's form."""
    assert issubclass(ExpressionError, GraphError | ValueError)
    assert issubclass(EvaluationError, CeleriacError)
    assert not issubclass(EvaluationError, GraphError)
    assert issubclass(Missing, LookupError)


def test_messages_read_as_sentences() -> None:
    """Where, what, and what to do."""
    refused, failed, *_ = map(str, ERRORS)
    assert refused == (
        "nodes[\"b\"].when: the expression 'a.output = 1' at character 10: '=' means nothing here. Write ==."
    )
    assert failed == (
        'a.output > 1: string > int is not defined (a.output = "x"). '
        "Correct the expression, or what the executor returns."
    )


def test_messages_stay_short_and_clean() -> None:
    """A long expression is shown around the place, and control characters never reach a terminal."""
    text = "x" * 900 + "\x1b[2J\u202e" + "y" * 900
    message = str(ExpressionError(text, 905, "wrong", "Correct it."))
    assert "at character 906" in message
    assert "\\x1b[2J\\u202e" in message
    assert len(message) < 300
    seen = tuple((f"a.output.k{i}", "\x1b" * 80) for i in range(100))
    message = str(EvaluationError(text, "type", "wrong", seen))
    assert message.isprintable()
    assert "and 95 more" in message
    assert len(message) < 2_000
