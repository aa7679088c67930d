"""Engines: one function over many batches, by threads, processes, or one after the other.

Every engine has one signature and yields results in the order of the batches, with a bounded number of batches
in flight. So the same bits come from each.
"""

from normcli.engine.local import ENGINES, NAMES, run

__all__ = ["ENGINES", "NAMES", "run"]
