"""Exact dataset statistics and normalization of images and tensors.

The Python twins of the commands, loaded on first use: importing normcli imports nothing heavy.

>>> import normcli
>>> normcli.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normcli.constants.compare import diff as diff
    from normcli.constants.identify import check as check
    from normcli.runs.apply import apply as apply
    from normcli.runs.build_transform import transform as transform
    from normcli.runs.restore import restore as restore
    from normcli.runs.stats import stats as stats
    from normcli.runs.verify import verify as verify
    from normcli.summary import Summary as Summary
    from normcli.summary import load as load
    from normcli.summary import merge as merge

_HOME = {
    "apply": "normcli.runs.apply",
    "restore": "normcli.runs.restore",
    "verify": "normcli.runs.verify",
    "transform": "normcli.runs.build_transform",
    "stats": "normcli.runs.stats",
    "Summary": "normcli.summary",
    "merge": "normcli.summary",
    "load": "normcli.summary",
    "check": "normcli.constants.identify",
    "diff": "normcli.constants.compare",
}

__all__ = [
    "Summary",
    "__version__",
    "apply",
    "check",
    "diff",
    "load",
    "merge",
    "restore",
    "stats",
    "transform",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module 'normcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
