"""The attempts of a bundle as text: values are what Celery would have made of them, and each has what its kind has."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError

from scheduler.worker.entries import columns_of, entries_in

RUN = "7.01jd0c0000000000000000000a"
DATE = '{"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"}'


def told(**changes: Any) -> dict[str, Any]:
    """An attempt, a step that follows it, and another attempt."""
    plain = {"run": RUN, "task": "a", "celeriac": {"v": 1}}
    step = {**plain, "task": "b", "claim": "some|20|60", "timelimit": [1.5, None]}
    made: dict[str, Any] = {
        "kinds": [plain, step],
        "of": [0, 1, 0],
        "places": ["3.1.1", "4.1.2", "5.1.1"],
        "nodes": ["x", "y", "z"],
        "inputs": [[1], {}, [None], {"k": 2}, [], {}],
        "more": {"1": {"holes": [[[0, 0], []]]}, "2": {"deferred": [[0, 1]], "secrets": [[1, "key"]], "novel": 5}},
    }
    return made | changes


def test_each_attempt_is_read_with_what_it_has_in_common_with_others() -> None:
    """Ids whole, steps behind the attempt that they follow, headers of their own; fields that nobody knows are left."""
    first, last = entries_in(json.dumps(told()))
    step = {
        "id": f"{RUN}.4.1.2",
        "task": "b",
        "claim": "some|20|60",
        "timelimit": [1.5, None],
        "celeriac": {"v": 1, "node": "y"},
        "inputs": [[None], {"k": 2}],
        "holes": [[[0, 0], []]],
    }
    assert first == {
        "id": f"{RUN}.3.1.1",
        "task": "a",
        "celeriac": {"v": 1, "node": "x"},
        "inputs": [[1], {}],
        "then": [step],
    }
    assert last == {
        "id": f"{RUN}.5.1.1",
        "task": "a",
        "celeriac": {"v": 1, "node": "z", "deferred": [[0, 1]], "secrets": [[1, "key"]]},
        "inputs": [[], {}],
    }
    assert columns_of(json.dumps(told())).heads() == [first["id"], last["id"]]


@pytest.mark.parametrize("spelled", ["__type__", "\\u005f_type__", "_\\u005Ftype__", "__\\u0074ype__"])
def test_values_of_kombu_s_own_forms_are_read_however_they_are_spelled(spelled: str) -> None:
    """JSON may spell any letter by its number."""
    text = json.dumps(told(inputs=[["DATE"], {}, [], {}, [], {}])).replace('"DATE"', DATE.replace("__type__", spelled))
    [first, _] = entries_in(text)
    assert first["inputs"] == [[datetime(2030, 1, 2, tzinfo=UTC)], {}]


@pytest.mark.parametrize("text", ["", "[", "nonsense", "[]", "7", None, [], {}])
def test_what_is_no_json_in_columns_is_an_error(text: Any) -> None:
    """Of the kind that Celery rejects a message for; what else may be wrong is tried on workers."""
    with pytest.raises(InvalidTaskError):
        entries_in(text)
