"""Saved tensors and the normalizers of neural networks: file -> normalizer -> file."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the normalizers, which need NumPy: `normcli.tensor.normalizers` after `import normcli`."""
    if name == "normalizers":
        import importlib

        return importlib.import_module("normcli.tensor.normalizers")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
