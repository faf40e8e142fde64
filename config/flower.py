"""Flower's settings for `celeriac flower`: names are Flower's options, values are read once at start.

Loopback and read-only: Flower has no login unless one is set, and revoking an attempt there would bypass the
scheduler, which would count it as lost and send it again. Search for `kwargs:run=<run id>` to see one run.
"""

from __future__ import annotations

import os

# Loopback inside a container cannot be published, so compose sets the address and publishes on the host's loopback.
address = os.environ.get("CELERIAC_FLOWER_ADDRESS", "127.0.0.1")
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
