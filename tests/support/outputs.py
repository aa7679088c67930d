"""The contents of a folder that `normcli apply` wrote."""

import hashlib
from collections import Counter
from pathlib import Path

from normcli.runs.names import WORK


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def finals(folder: Path) -> dict[str, bytes]:
    """Return the files under final names; unfinished ones come and go during a run."""
    paths = [p for p in sorted(folder.rglob("*")) if WORK not in p.parts and p.is_file()] if folder.exists() else []
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def hashes(out: Path) -> Counter[str]:
    """Return digests of the arrays of a run, without their names."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.npy"))


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.npy"))
