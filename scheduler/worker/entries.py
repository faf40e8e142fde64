"""The attempts of a message that carries several, as they stand in it."""

from __future__ import annotations

import json
from typing import Any

from kombu.utils import json as kombu_json


def entries_in(told: Any) -> Any:
    """The attempts that the task `celeriac.bundle` is given: JSON text, or of an older scheduler what Celery has read.

    Values that kombu has a form for, such as datetimes, are what they are for a task with a message of its own.

    Raises:
        ValueError: it is no JSON.  Others: as kombu's decoders raise.
    """
    if not isinstance(told, str):
        return told
    if "__type__" in told or "\\u00" in told:  # any of its letters may be spelled so
        return kombu_json.loads(told)
    return json.loads(told)
