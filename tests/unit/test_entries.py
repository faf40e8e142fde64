"""The attempts of a bundle as text: values are what Celery would have made of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from kombu.utils import json as kombu_json

from scheduler.worker.entries import entries_in

DATE = '[{"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"}]'


@pytest.mark.parametrize("spelled", ["__type__", "\\u005f_type__", "_\\u005Ftype__", "__\\u0074ype__"])
def test_values_of_kombu_s_own_forms_are_read_however_they_are_spelled(spelled: str) -> None:
    """JSON may spell any letter by its number."""
    told = DATE.replace("__type__", spelled)
    assert entries_in(told) == kombu_json.loads(told) == [datetime(2030, 1, 2, tzinfo=UTC)]


def test_what_celery_has_read_already_is_taken_as_it_is() -> None:
    """Schedulers of the version before send a list."""
    assert entries_in([{"id": "a"}]) == [{"id": "a"}]


@pytest.mark.parametrize("told", ["", "[", "nonsense"])
def test_what_is_no_json_is_an_error(told: str) -> None:
    """The caller says which message it was."""
    with pytest.raises(json.JSONDecodeError):
        entries_in(told)
