"""What those see who submit and wait: the client and the run handle, for threads and for coroutines.

`client` submits and finds runs, `submission` is how, `handle` is one run, `steps` says what a wait looks for, `waiting`
does the waiting without polling, `together` for many runs; `views` puts a run into words, `explain` says why, `access`
holds the connections.
"""

from __future__ import annotations

from .client import Client
from .explain import Explanation, Fact
from .handle import RunHandle
from .steps import Completed
from .submission import Submission
from .views import Event, NodeView

__all__ = ["Client", "Completed", "Event", "Explanation", "Fact", "NodeView", "RunHandle", "Submission"]
