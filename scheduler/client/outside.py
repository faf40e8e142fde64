"""What people and programs outside tell a run: signals, answers, ends of jobs. And what people are asked.

The same can be told from any language by one command of Redis; service/replies.py shows the records.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.run import Run
from ..core.states import ENDED_RUNS, NodeState
from ..core.waiting import wait_of
from ..core.waits import Wait
from ..errors import (
    ERROR_KINDS,
    AnswerRefused,
    InvalidValue,
    NodeNotFound,
    RunError,
    SignalRefused,
    did_you_mean,
    shown,
)
from ..graph.handles import Node
from ..graph.limits import name_of, seconds_of
from ..payloads import check_payload
from ..store.approvals import Question, questions
from ..store.outcomes import log_end
from ..wire import INLINE_LIMIT_BYTES, AttemptId
from .access import Access
from .given import reason_of, who_of
from .waiting import Ask, Follow, Steps, Waiting

if TYPE_CHECKING:
    from ..graph.limits import Duration
    from ..wire import RunId

ANSWER_SECONDS = 30.0


class Answer(NamedTuple):
    """An answer on its way, checked as far as it can be here."""

    node: int
    epoch: int
    record: dict[str, Any]


class Outside:
    """Methods of `RunHandle` for those who are no workers."""

    id: RunId
    _access: Access

    def signal(self, name: str, payload: Any = None, *, key: str = "", by: str | None = None) -> None:
        """Sends a signal to the run. It ends the wait of one node that waits for it, or is kept until one does.

        Returns when it is stored; the run's events tell what became of it.

        Args:
            name: of the signal, as the graph has it.
            payload: any JSON value up to 64 KB, as the schema of the signal says.
            key: idempotency key: a second signal of the same name and key changes nothing.
            by: who sends it; None for the user of this process.

        Raises:
            SignalRefused: no node of the graph waits for such a signal, or the run has ended.
            InvalidValue: the payload is not as the signal's schema says.
            RunNotFound, StoreUnreachable: see `wait`.
        """
        said = {"name": name_of(name, "name"), "key": "" if key == "" else name_of(key, "key"), "by": who_of(by)}

        def send() -> None:
            run = self._whole()
            waits = {} if run.guards is None else run.guards.waits
            known = {it.name: it for it in waits.values() if it.kind == "signal"}
            if name not in known:
                remedy = f"Its signals are {', '.join(known) or 'none'}.{did_you_mean(name, known)}"
                raise SignalRefused(self.id, name, "no node of its graph waits for it", remedy)
            self._open(run, lambda why: SignalRefused(self.id, name, why, "Nothing waits in it any more."))
            value = check_payload(known[name].schema, payload, "payload")
            self._access.runs.tell("signal", self.id, {"run": self.id, **said, "payload": value})

        self._access.reach(send)

    async def asignal(self, name: str, payload: Any = None, *, key: str = "", by: str | None = None) -> None:
        """`signal` for a coroutine."""
        await asyncio.to_thread(self.signal, name, payload, key=key, by=by)

    def answer(
        self,
        node: Node[Any] | str,
        choice: str,
        answer: Any = None,
        *,
        comment: str = "",
        by: str | None = None,
        timeout: Duration = ANSWER_SECONDS,
    ) -> None:
        """Answers an approval. Returns when the scheduler has taken the answer.

        Args:
            node: the approval's handle or key.
            choice: one of its choices.
            answer: what its form asks for besides.
            comment: in your words, up to 2,000 characters.
            by: who answers; None for the user of this process.
            timeout: how long to wait for the scheduler.

        Raises:
            AnswerRefused: nothing is asked there (any more), you may not answer, or somebody was faster.
            InvalidValue: the choice or the answer is not what is asked for.
            NodeNotFound, RunNotFound: there is none.
            WaitTimeout: no scheduler has taken it up; the answer stands.
        """
        self._answering(node, choice, answer, comment, by, timeout).result()

    async def aanswer(
        self,
        node: Node[Any] | str,
        choice: str,
        answer: Any = None,
        *,
        comment: str = "",
        by: str | None = None,
        timeout: Duration = ANSWER_SECONDS,  # noqa: ASYNC109  a parameter like its twin's
    ) -> None:
        """`answer` for a coroutine."""
        await self._answering(node, choice, answer, comment, by, timeout).aresult()

    # --- how it does that ----------------------------------------------------------------------------------

    def _answering(
        self, node: Node[Any] | str, choice: str, answer: Any, comment: str, by: str | None, timeout: Duration
    ) -> Waiting[None]:
        key = node.key if isinstance(node, Node) else node
        said = {"choice": choice, "comment": reason_of(comment), "by": who_of(by)}
        steps = self._answer_steps(key, said, answer)
        return Waiting(self._access, self.id, steps, seconds_of(timeout, "timeout", 0))

    def _answer_steps(self, key: str, said: dict[str, Any], answer: Any) -> Steps[None]:
        """Send an answer, and follow the log until it says what became of it."""
        name = os.urandom(6).hex()
        after = ""

        def send() -> int:
            nonlocal after
            run = self._whole()
            if key not in run.keys:
                raise NodeNotFound(self.id, key, run.keys)
            number = run.keys.index(key)
            wait = wait_of(run, number)
            self._check(run, number, key, wait, said)
            form = wait.form if wait is not None else None
            value = check_payload(form, answer, "answer")
            after = log_end(self._access.runs, self.id)
            record = {"run": self.id, "node": number, "epoch": run.epoch[number], "id": name, "answer": value, **said}
            self._access.runs.tell("answer", self.id, record)
            return number

        node: int = yield Ask(send)
        while True:
            entries = yield Follow(after, "waiting", key)
            if not entries:
                yield Ask(self._whole)
                continue
            after = entries[-1][0]
            for move in (move for _, moves in entries for move in moves):
                if f"({name})" in str(move[4]):
                    if move[0] == node and move[1] in ("resolve", "wake", "expire"):
                        return
                    raise AnswerRefused(self.id, key, str(move[4]), "Look at `celeriac approvals ls`.")

    def _check(self, run: Run, node: int, key: str, wait: Wait | None, said: dict[str, Any]) -> None:
        self._open(run, lambda why: AnswerRefused(self.id, key, why, "It asks nobody any more."))
        if wait is None or wait.kind != "approval":
            state = NodeState(run.state[node]).word
            remedy = "Look at `celeriac approvals ls` for what is asked now."
            raise AnswerRefused(self.id, key, f"it asks nobody now, it is {state}", remedy)
        if said["choice"] not in wait.choices:
            raise InvalidValue(
                "choice", said["choice"], "is no choice there", f"Choose one of {', '.join(wait.choices)}."
            )

    def _open(self, run: Run, refused: Callable[[str], RunError]) -> None:
        if run.run_state in ENDED_RUNS:
            raise refused(f"the run is {run.run_state}")

    def _whole(self) -> Run:
        return self._access.reading(self.id, lambda runs: runs.load(self.id))


def open_questions(access: Access) -> list[Question]:
    """All approvals that wait, the oldest first."""
    return access.reach(lambda: questions(access.runs))


def complete(access: Access, token: str, output: Any, error: dict[str, Any] | None) -> None:
    """Ends a job that an attempt has begun; see Client.complete."""
    attempt = AttemptId.parse(str(token))
    if attempt is None:
        raise InvalidValue("token", token, "is no attempt's id", "Hand over scheduler.worker.attempt().id.")
    record: dict[str, Any] = {"token": token}
    if error is not None:
        kind = error.get("kind", "transient")
        if kind not in ERROR_KINDS:
            raise InvalidValue("error.kind", kind, "is no kind of error", f"Use one of {', '.join(ERROR_KINDS)}.")
        record["error"] = error
    else:
        size = len(json.dumps(output, ensure_ascii=False).encode("utf-8", "replace"))
        if size > INLINE_LIMIT_BYTES:
            remedy = "Store it elsewhere and hand over its address."
            raise InvalidValue("output", shown(output), f"has {size:,} bytes, more than may be handed in", remedy)
        record["output"] = output
    access.reach(lambda: access.runs.tell("job", attempt.run, record))
