"""One call of an executor as a worker makes it, in this process: inputs checked, called, output checked, encoded.

No Celery task, no claim, no report. The attempt that the executor may ask for (`scheduler.worker.attempt()`, a Context
parameter) is given for the duration of the call; what is raised gets the kind that the executor's own table and
celeriac's say (worker/endings.py). What install(app, errors=...) adds for an app is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kombu.exceptions import EncodeError
from pydantic import BaseModel

from ..errors import InvalidValue, NotJson, escaped
from ..worker.context import Context, given
from ..worker.endings import Ending, ending
from ..worker.executor import Executor
from ..worker.report import encode

AnyExecutor = Executor[..., Any]


class Ran(NamedTuple):
    """How a call ended.

    Attributes:
        raw: JSON of the output; None when there is none.
        ending: how it ended otherwise, with its error record; None when it succeeded.
    """

    raw: bytes | None
    ending: Ending | None

    @property
    def output(self) -> Any:
        """The output as JSON values."""
        return None if self.raw is None else json.loads(self.raw)

    @property
    def words(self) -> str:
        """The end in a few words: "an output" or "invalid_input: InvalidInput: inputs of ..."."""
        if self.ending is None:
            return "an output"
        error = self.ending.error
        return f"{error['kind']}: {error['type']}: {escaped(str(error['message']), 300)}"


def run_executor(executor: AnyExecutor, args: Sequence[Any], kwargs: Mapping[str, Any], context: Context) -> Ran:
    """Run an executor once.

    Args:
        args, kwargs: JSON values, as a message carries them.
        context: the attempt that it finds.
    """
    try:
        with given(context):
            output = executor.run(*args, **kwargs)
        return Ran(encode(output), None)
    except (Exception, SystemExit) as raised:  # noqa: BLE001  whatever an executor raises is how its attempt ends
        return Ran(None, ending(raised, [executor.errors]))


def checked_executor(value: object, at: str) -> AnyExecutor:
    """An executor that is handed in.

    Raises:
        InvalidValue: it is none.
    """
    if not isinstance(value, Executor):
        raise InvalidValue(at, value, "is no executor", "Hand over what @executor made.")
    return value


def as_json(value: object, at: str) -> Any:
    """A value as it arrives when it has travelled as JSON; a pydantic model stands for its JSON.

    Raises:
        NotJson: it cannot travel so.
    """
    return json.loads(raw_json(value, at))


def raw_json(value: object, at: str) -> bytes:
    """The same, as the text that travels."""
    try:
        return encode(value.model_dump(mode="json") if isinstance(value, BaseModel) else value)
    except EncodeError as problem:
        raise NotJson(at, value, f"cannot travel: {escaped(str(problem), 200)}", "Write plain JSON values.") from None
