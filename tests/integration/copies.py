"""A copy of a whole store, to be set back to: a failover, a restored backup, in one instant."""

from __future__ import annotations

from tests.integration.stage import Stage


class Copy:
    """The whole store at one instant, to be set back to."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        keys = sorted(stage.client.scan_iter(count=1000))
        with stage.client.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.pttl(key)
                pipe.dump(key)
            found = pipe.execute()
        self.kept = {key: (ttl, raw) for key, ttl, raw in zip(keys, found[::2], found[1::2], strict=True) if raw}

    def set_back(self, *, broker: bool = True) -> None:
        """Everything after this copy is lost, whoever was told that it is stored; in one instant, as in a failover.

        Args:
            broker: whether queues go back too; they do where the broker is the same Redis.
        """
        client = self.stage.client
        with client.pipeline(transaction=True) as pipe:
            for key in client.scan_iter(count=1000):
                if broker or key.startswith((b"{", b"cel:")):
                    pipe.delete(key)
            for key, (ttl, raw) in self.kept.items():
                pipe.restore(key, max(ttl, 0), raw)
            pipe.execute()
