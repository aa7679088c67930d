"""Exact dataset statistics and normalization of images and tensors.

The Python twins of the commands, loaded on first use: importing normcli imports nothing heavy.

>>> import normcli
>>> normcli.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from normcli.api import activation_stats as activation_stats
    from normcli.api import apply as apply
    from normcli.api import check as check
    from normcli.api import check_features as check_features
    from normcli.api import count as count
    from normcli.api import diff as diff
    from normcli.api import fold as fold
    from normcli.api import list_tensors as list_tensors
    from normcli.api import merge_states as merge_states
    from normcli.api import mix_states as mix_states
    from normcli.api import restore as restore
    from normcli.api import stats as stats
    from normcli.api import transform as transform
    from normcli.api import verify as verify
    from normcli.api import verify_statistics as verify_statistics
    from normcli.errors import InputError as InputError
    from normcli.errors import MissingExtraError as MissingExtraError
    from normcli.errors import NoInputError as NoInputError
    from normcli.errors import NormcliError as NormcliError
    from normcli.errors import OutputError as OutputError
    from normcli.errors import RemoteError as RemoteError
    from normcli.errors import StatisticsFileError as StatisticsFileError
    from normcli.errors import TensorError as TensorError
    from normcli.errors import UsageError as UsageError
    from normcli.runs.counter import Counter as Counter
    from normcli.sources.open_options import source as source
    from normcli.summary import Summary as Summary
    from normcli.summary import load as load
    from normcli.summary.sums import merge as merge

_MODULES = {
    "normcli.api": (
        *("activation_stats", "apply", "check", "check_features", "count", "diff", "fold", "list_tensors"),
        *("merge_states", "mix_states", "restore", "stats", "transform"),
        *("verify", "verify_statistics"),
    ),
    "normcli.errors": (
        *("InputError", "MissingExtraError", "NoInputError", "NormcliError", "OutputError", "RemoteError"),
        *("StatisticsFileError", "TensorError", "UsageError"),
    ),
    "normcli.runs.counter": ("Counter",),
    "normcli.sources.open_options": ("source",),
    "normcli.summary": ("Summary", "load"),
    "normcli.summary.sums": ("merge",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in ("errors", "options", "tensor"):  # public packages
        return importlib.import_module(f"normcli.{name}")
    raise AttributeError(f"module 'normcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
