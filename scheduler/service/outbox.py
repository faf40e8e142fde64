"""What has been committed goes to the broker as messages. What the broker does not take stays here and is sent again.

Inputs are resolved at the last moment, from outputs in memory, which are fetched where they are not and let go when no
node will ask for them any more.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Celery

from ..core.inputs import holes, resolve
from ..core.mappers import MappingError
from ..core.mapping import Mappings
from ..core.run import Profile, Run, references
from ..core.states import IN_FLIGHT, NodeState
from ..settings import Settings
from ..store.attempts import Attempts
from ..store.runs import Runs
from ..wire import Report, RunId, error_record
from .admission import Admission
from .announcer import Announcer
from .aside import fetcher
from .batch import Batch
from .bundling import Parcel
from .chains import can_be_bound
from .held import Held
from .pauses import Pauses
from .publisher import Bundled, Letter, Template, Templates
from .transport import RedisTransport, Transport

log = logging.getLogger("celeriac.scheduler")

MOST_INPUT_CHARACTERS = 16 * 1_048_576
"""Of one message's inputs; the broker holds them twice while a worker runs the attempt."""
MOST_SHARED_CHARACTERS = 1_048_576
"""Of the inputs of attempts that share a message; one that takes an eighth of it travels alone."""
LAID_AT_MOST = 100
"""Attempts whose messages may go with their commit."""
BROKER_PAUSE_SECONDS = (0.1, 2.0)
"""First and longest wait before a broker that took nothing is tried again; the loop does not stand still meanwhile."""

_IN_FLIGHT = frozenset(map(int, IN_FLIGHT))
_NO_OUTPUT = ord("n")


Made = tuple[Template, tuple[int, int] | None]
"""A template, and Letter.silence."""


class Outgoing(NamedTuple):
    """An attempt on its way out.

    Attributes:
        parcel: what it shares a message with; None when it travels alone.
        steps: nodes that follow it there, a chain.
    """

    held: Held
    run: RunId
    node: int
    id: str
    parcel: Parcel | None = None
    steps: Sequence[int] = ()


class Laid(NamedTuple):
    """Messages that are to go with the commit of their attempts: the broker's queues are lists beside the store.

    Attributes:
        going: all that goes out in this turn, of one shard.
        queues: list -> messages.
    """

    held: Held
    going: Sequence[Outgoing]
    letters: Sequence[tuple[Template, Letter]]
    queues: Mapping[str, Sequence[bytes]]


class Outbox:
    """Attempts on their way out.

    Args:
        settings: classes.
        app: makes the samples of messages.
        transport: how messages get to the broker.
        admission: knows what executors declare.
        counts: of the scheduler.

    Attributes:
        unsent: committed and not yet taken by the broker.
    """

    def __init__(
        self, settings: Settings, app: Celery, transport: Transport, admission: Admission, counts: Counter[str]
    ) -> None:
        self.unsent: list[Outgoing] = []
        self._refused: list[Report] = []
        self._made: dict[tuple[int, str, str], Made] = {}
        self._classes = settings.classes
        self._default = settings.default_class
        self._templates = Templates(app)
        self._transport = transport
        self._beside = transport if isinstance(transport, RedisTransport) and transport.is_beside else None
        self._announcer = Announcer(transport)
        self._admission = admission
        self._counts = counts
        self._pauses = Pauses(*BROKER_PAUSE_SECONDS)
        self._send_at = 0.0

    def forget(self, held: Held) -> None:
        """A shard is not ours any more."""
        self.unsent = [it for it in self.unsent if it.held is not held]

    def republish(self, held: Held, attempts: Mapping[str, str], outbox: list[list[str]]) -> None:
        """Send again what a former owner left in the outbox and no worker has claimed. The claim makes it harmless."""
        again = []
        for id_ in (id_ for ids in outbox for id_ in ids):
            _shard, run, node, _epoch, _attempt = id_.split(".")
            if attempts.get(id_, "")[:1] == "s" and run in held.runs:
                again.append(Outgoing(held, RunId(run), int(node), id_))
        self.unsent += again
        held.batches_out = len(outbox)
        held.published = 0 if again else len(outbox)

    def keep(self, going: Sequence[Outgoing], *, first: bool) -> None:
        """These have been committed and are to be sent, before what is there already or behind it."""
        self.unsent = [*going, *self.unsent] if first else [*self.unsent, *going]

    def publish(self, runs: Runs) -> None:
        """Send everything that is committed and not sent, unless the broker took nothing a moment ago."""
        if not self.unsent or time.monotonic() < self._send_at:
            return
        letters = self._letters(self.unsent, runs, {})
        if self._refused:  # their nodes fail by a report like any other, and no broker is burdened
            Attempts(runs.client, runs.namespace).report((report, None) for report in self._refused)
        try:
            if letters:
                self._transport.send(letters)
        except Exception as broken:  # noqa: BLE001  any broker, any client library
            self._counts["unpublished"] += 1
            if not self._pauses.now:
                log.warning("the broker took no messages (%s: %s); sending them again", type(broken).__name__, broken)
            self._send_at = time.monotonic() + self._pauses.next()
            return
        if self._pauses.now:
            log.warning("the broker takes messages again")
            self._pauses.over()
        self._sent(self.unsent, letters)
        for going in self.unsent:
            going.held.published = going.held.batches_out
        self.unsent.clear()

    def lay(self, going: Sequence[Outgoing], batches: Mapping[int, Batch], runs: Runs) -> Laid | None:
        """The messages of what is about to be committed, to go with that: then nothing is to be sent after it, and no
        worker waits for that. Only what a small turn of one shard brings, where the broker is the store's own Redis;
        None otherwise, and where it is much text, for nothing else happens in Redis while a commit does.
        """
        if not 0 < len(going) <= LAID_AT_MOST or self._beside is None:
            return None
        held = going[0].held
        if any(it.held is not held for it in going) or any(it.held is held for it in self.unsent):
            return None
        written = {id_: page.values for id_, page in batches[held.keys.shard].pages.items() if page.values}
        letters = self._letters(going, runs, written)
        if self._refused or not letters or sum(len(it.inputs) for _, it in letters) > MOST_SHARED_CHARACTERS:
            return None
        return Laid(held, going, letters, self._beside.lists(letters))

    def gone(self, laid: Laid) -> None:
        """They have been committed, and their messages with them."""
        self._sent(laid.going, laid.letters)

    def _sent(self, sent: Sequence[Outgoing], letters: Sequence[tuple[Template, Letter]]) -> None:
        """The broker has these messages: tell of them, and let go of what was kept for them."""
        self._announcer.tell(letters)
        for going in sent:
            run = going.held.runs.get(going.run)
            if run is not None and type(run.template(going.node)) is not str:
                self.let_go(run, going.node)
        self._counts["published"] += len(sent)
        self._counts["messages"] += len(letters)

    def _letters(
        self, sent: Sequence[Outgoing], runs: Runs, written: Mapping[str, Mapping[int, bytes]]
    ) -> list[tuple[Template, Letter]]:
        """What goes out, as messages; what is not to go is in `_refused` then.

        Args:
            written: run -> node -> output or error, of what is not in the store yet.
        """
        self._refused.clear()
        self._made.clear()  # profiles are told apart by their ids, which is right while their runs keep them
        asking = [it for it in sent if self._asks(it)]
        if asking:
            self._fetch_values(runs, asking, written)
        return self._messages(sent, Mappings(fetcher(runs)))

    def _messages(self, sent: Sequence[Outgoing], mappings: Mappings) -> list[tuple[Template, Letter]]:
        """Messages; what shares a parcel shares one, unless it is too much text."""
        found: list[tuple[Template, Letter]] = []
        together: dict[Parcel, list[tuple[Template, Letter]]] = {}
        for going in sent:
            message = self._message(going, mappings)
            if message is None:
                continue
            if going.parcel is None or len(message[1].inputs) > MOST_SHARED_CHARACTERS // 8:
                found.append(message)
            else:
                together.setdefault(going.parcel, []).append(message)
        for part in (part for letters in together.values() for part in _fitting(letters)):
            if len(part) == 1 and not part[0][1].then:
                found += part
                continue
            template: Any = self._templates.bundle(part[0][0].queue_class)
            bundled: Any = Bundled.of(part)
            found.append((template, bundled))
        return found

    def sends_in(self) -> float | None:
        """Seconds until what is unsent is tried again, 0 for at once; None when nothing is unsent."""
        return max(self._send_at - time.monotonic(), 0.0) if self.unsent else None

    def _message(self, going: Outgoing, mappings: Mappings) -> tuple[Template, Letter] | None:
        """The message of an attempt with the steps that follow it, or None when it is over by now, or its inputs cannot
        be had.
        """
        held, run_id, node, id_, _, steps = going
        run = held.runs.get(run_id)
        if run is None or run.state[node] not in _IN_FLIGHT or int(id_.rpartition(".")[2]) != run.attempt[node]:
            return None
        name, executor = held.place(id_)
        made = self._made_for(run.way(node), executor, name)
        try:
            letter = self._letter(run, node, id_, made, mappings)
        except MappingError as failed:
            gone = failed.kind == "gone"
            kind, origin = ("permanent", "infrastructure") if gone else ("contract", None)
            problem = f"the inputs of this node cannot be made: {failed}"
            self._refuse(id_, error_record(kind, "MappingError", problem, origin=origin, phase="dispatch"))
            return None
        length = len(letter.inputs)
        if length > MOST_INPUT_CHARACTERS:
            problem = (
                f"the inputs of this node have {length:,} characters with all outputs in their places, at most "
                f"{MOST_INPUT_CHARACTERS:,} go into a message. Let upstream nodes store their outputs elsewhere and "
                "return addresses, or join them in stages."
            )
            self._refuse(id_, error_record("invalid_input", "InputTooLarge", problem, phase="dispatch"))
            return None
        if steps and length <= MOST_SHARED_CHARACTERS // 8:
            letter = letter._replace(then=self._steps(held, run, node, steps, mappings, length))
        return made[0], letter

    def _steps(
        self, held: Held, run: Run, node: int, steps: Sequence[int], mappings: Mappings, characters: int
    ) -> list[tuple[Template, Letter]]:
        """What follows an attempt in its message, as far as it can be told by now and is not too much text."""
        found: list[tuple[Template, Letter]] = []
        before, shard = node, held.keys.shard
        queue_class = self._classes.get(held.place(run.attempt_id(shard, node))[0], self._default)
        known: dict[int, tuple[Made, str]] = {}  # by way, as in _made: what its steps have in common
        for step in steps:
            if run.state[step] != NodeState.PENDING or not can_be_bound(run, step, before):
                break
            way = run.way(step)
            alike = known.get(id(way))
            if alike is None:
                limit = self._admission.limit_ms(way, queue_class)
                claim = f"{queue_class.name}|{queue_class.lease_ms}|{limit}"
                alike = known[id(way)] = self._made_for(way, "", queue_class.name), claim
            made, claim = alike
            id_ = f"{shard}.{run.id}.{step}.{run.epoch[step]}.{run.attempt[step] + 1}"
            try:
                letter = self._letter(run, step, id_, made, mappings, claim, before)
            except MappingError:
                break
            characters += len(letter.inputs)
            if characters > MOST_SHARED_CHARACTERS // 8:
                break
            found.append((made[0], letter))
            before = step
        return found

    def _letter(
        self, run: Run, node: int, id_: str, made: Made, mappings: Mappings, claim: str = "", before: int = -1
    ) -> Letter:
        """What a worker has to know of an attempt.

        Args:
            made: for its profile.
            claim, before: of a step that follows another in its message: for its claim, and that node.

        Raises:
            MappingError: its inputs cannot be had.
        """
        template = run.template(node)
        text, deferred = resolve(run, template, run.outputs, mappings)
        return Letter(
            id_,
            run.id,
            run.keys[node],
            node,
            int(id_.rpartition(".")[2]),
            text,
            run.deadline_at_ms,
            run.correlation_id,
            deferred,
            run.secret_places(node),
            made[1],
            (),
            claim,
            holes(template, before) if claim else (),
        )

    def _refuse(self, id_: str, error: dict[str, Any]) -> None:
        """The attempt does not go out, and is reported as failed."""
        self._refused.append(Report(id_, "failed", "", None, "none", error))

    def _made_for(self, way: Profile, executor: str, name: str) -> Made:
        """What letters of one profile have in common: their template, and how long their executor may be silent.

        Args:
            executor: that was found for a capability or tool; "" for none.
            name: of their class.
        """
        asked = id(way), executor, name
        found = self._made.get(asked)
        if found is None:
            profile, queue_class = self._admission.bound(way, executor), self._classes.get(name, self._default)
            limits = self._admission.timeout_ms(profile), self._admission.soft_timeout_ms(profile)
            silence = None
            if profile.silence_ms is not None:
                silence = profile.silence_ms, self._admission.limit_ms(profile, queue_class)
            found = self._made[asked] = self._templates.get(profile.executor, queue_class, *limits), silence
        return found

    def _asks(self, going: Outgoing) -> bool:
        """Whether the inputs of an attempt, or of the steps that follow it, may refer to other nodes."""
        run = going.held.runs.get(going.run)
        return run is not None and (bool(going.steps) or type(run.template(going.node)) is not str)

    def _fetch_values(self, runs: Runs, asking: Sequence[Outgoing], written: Mapping[str, Mapping[int, bytes]]) -> None:
        """Outputs and errors that the inputs of outgoing attempts refer to and that are not in memory."""
        missing: dict[str, tuple[Run, set[int]]] = {}
        for held, run_id, node, *_, steps in asking:
            run = held.runs[run_id]
            for source in (it for asking in (node, *steps) for it in references(run.template(asking))):
                if source not in run.outputs and run.output_kind[source] != _NO_OUTPUT:
                    missing.setdefault(run_id, (run, set()))[1].add(source)
        for run, nodes in missing.values():
            here = written.get(run.id, {})
            run.outputs |= {node: here[node] for node in nodes if node in here}
            if there := sorted(node for node in nodes if node not in here):
                run.outputs |= runs.values(RunId(run.id), there)

    def let_go(self, run: Run, node: int) -> None:
        """A node has its inputs: forget outputs that no other will ask for; one that is asked for again is fetched."""
        for source in references(run.template(node)):
            run.readers[source] -= run.readers[source] > 0
            if not run.readers[source]:
                run.outputs.pop(source, None)


def _fitting(letters: Sequence[tuple[Template, Letter]]) -> Iterator[Sequence[tuple[Template, Letter]]]:
    """Letters in parts that one message takes each. None is larger than an eighth of that."""
    first = size = 0
    for at, (_, letter) in enumerate(letters):
        size += len(letter.inputs)
        if size > MOST_SHARED_CHARACTERS:
            yield letters[first:at]
            first, size = at, len(letter.inputs)
    yield letters[first:]
