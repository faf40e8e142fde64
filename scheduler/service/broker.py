"""What `celeriac doctor` asks the broker: does it answer, what waits in each class's queue, is it as declared here?

Creates no queue. Uses the transport of the scheduler, so what it finds is what a scheduler would find.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..settings import Settings, is_rabbit
from .publisher import scheduler_app
from .transport import open_transport

CONSUMER_TIMEOUT_SECONDS = 1800.0
"""RabbitMQ's own, where nobody has set another: a message that is out for longer is taken back with its channel."""
_TELLS_BY_QUEUE = (3, 12)
"""From this version on a queue may say its own."""


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker, as found.

    Attributes:
        product: with its version, "" when it does not say.
        depths: queue class -> messages that wait; None when its queue does not exist yet.
        differing: classes whose queue was declared with other arguments than our settings give.
        dead_letters: messages that the broker has laid aside, None when it has no such queue.
        taken_back: classes whose tasks may run for longer than the broker lets a message be out.
    """

    product: str
    depths: dict[str, int | None]
    differing: list[str] = field(default_factory=list)
    dead_letters: int | None = None
    taken_back: list[str] = field(default_factory=list)


def look(settings: Settings) -> Broker:
    """Ask the broker that the settings name. A round trip or two per class.

    Raises:
        Exception: of the client library, within a few seconds, when it does not answer.
    """
    app = scheduler_app(settings)
    transport = open_transport(settings, app)
    try:
        depths = {name: transport.depth(it.queue) for name, it in settings.classes.items()}
        if not is_rabbit(settings.broker_url or ""):
            return Broker("", depths)
        from .rabbit import RabbitTransport

        assert isinstance(transport, RabbitTransport)  # noqa: S101  for mypy: open_transport decides by the same URL
        product = transport.describe()
        found = Broker(product, depths, dead_letters=transport.depth(settings.broker_dead_letter_queue))
        for name, it in settings.classes.items():
            if depths[name] is not None and not transport.same_arguments(it.queue):
                found.differing.append(name)
            by_queue = settings.queue_arguments(it) and _version(product) >= _TELLS_BY_QUEUE
            if it.timeout_seconds > CONSUMER_TIMEOUT_SECONDS and not by_queue:
                found.taken_back.append(name)
        return found
    finally:
        transport.close()


def _version(product: str) -> tuple[int, ...]:
    """The version that a product's name ends with.

    >>> _version("RabbitMQ 3.10.8")
    (3, 10, 8)
    """
    return tuple(int(part) for part in product.rpartition(" ")[2].split(".") if part.isdigit())
