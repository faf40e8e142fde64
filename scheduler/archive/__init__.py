"""The archive of ended runs: one file per run, gzip of JSON lines, in a folder or wherever fsspec reaches.

`places` is where files lie and how they get there whole, `lines` is what stands in them, `shelf` reads one like the
store, `archive` puts the three together. Written by the service, read by the client and the command line.
"""

from __future__ import annotations

from .archive import NOWHERE, Archive, archived_run, open_archive

__all__ = ["NOWHERE", "Archive", "archived_run", "open_archive"]
