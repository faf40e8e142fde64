"""Flower's settings for `celeriac flower`: names are Flower's options, values are read once at start.

Loopback and read-only: Flower has no login unless one is set, and revoking an attempt there would bypass the
scheduler, which would count it as lost and send it again. Search for `kwargs:run=<run id>` to see one run.

On any other address Flower does not start without a login: FLOWER_BASIC_AUTH=user:password (several with commas), or
FLOWER_AUTH and its OAuth2 settings. /metrics and /healthcheck answer without one even then; keep them behind a proxy.
"""

from __future__ import annotations

import ipaddress
import os

# Loopback inside a container cannot be published, so compose sets the address and publishes on the host's loopback.
address = os.environ.get("CELERIAC_FLOWER_ADDRESS", "127.0.0.1")
# A name other than localhost may mean any address, so it counts as one that others reach.
try:
    loopback = address == "localhost" or ipaddress.ip_address(address).is_loopback
except ValueError:
    loopback = False
if not loopback and not (os.environ.get("FLOWER_BASIC_AUTH") or os.environ.get("FLOWER_AUTH")):
    raise SystemExit(
        f"Flower would listen on {address or 'all addresses'} without a login, and it shows every task's arguments and "
        "result. Set FLOWER_BASIC_AUTH=user:password, or CELERIAC_FLOWER_ADDRESS=127.0.0.1."
    )
del loopback

port = int(os.environ.get("CELERIAC_FLOWER_PORT", "5555"))
read_only = True

# args reads `run=... node=... attempt=...`; routing_key is the queue.
tasks_columns = "name,args,state,received,started,runtime,worker,retries,routing_key"
natural_time = False

# About 7 kB a task. Nothing is kept on disk: history is the scheduler's, in Redis.
max_tasks = 20_000
persistent = False

# A worker that went away leaves the list after ten minutes.
purge_offline_workers = 600
