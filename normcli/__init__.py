"""Exact dataset statistics and normalization of images and tensors.

The Python twins of the commands, loaded on first use: importing normcli imports nothing heavy.

>>> import normcli
>>> normcli.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normcli.difference import diff as diff
    from normcli.pipeline.apply.applying import apply as apply
    from normcli.pipeline.apply.inverse import inverse as inverse
    from normcli.pipeline.apply.transforms import transform as transform
    from normcli.pipeline.apply.verifying import verify as verify
    from normcli.pipeline.stats.counting import stats as stats
    from normcli.recognition import check as check
    from normcli.summary import Summary as Summary
    from normcli.summary import merge as merge

_HOME = {
    "apply": "normcli.pipeline.apply.applying",
    "inverse": "normcli.pipeline.apply.inverse",
    "verify": "normcli.pipeline.apply.verifying",
    "transform": "normcli.pipeline.apply.transforms",
    "stats": "normcli.pipeline.stats.counting",
    "Summary": "normcli.summary",
    "merge": "normcli.summary",
    "check": "normcli.recognition",
    "diff": "normcli.difference",
}

__all__ = ["Summary", "__version__", "apply", "check", "diff", "inverse", "merge", "stats", "transform", "verify"]


def __getattr__(name: str) -> Any:
    """Load a public name from the module where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module 'normcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
