"""A stored matrix of digests of all outputs: a change of the code's shape that changes a bit is seen.

    python -m tests.support.matrix store [CELL...]    write tests/fixtures/matrix.json anew (of PYTHON, see below)
    python -m tests.support.matrix check [CELL...]    run cells (all, or names that start so) and compare

`--edition DIR` runs the normcli of another checkout, by its own .venv when it has one.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

from tests.support.matrix_cells import Cell, Helps, Kill, cells, spelling
from tests.support.matrix_data import prepare

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests/fixtures/matrix.json"
MODULES = {"parquet": "pyarrow", "zst": "zstandard", "tiff": "tifffile", "dask": "distributed"}
# what decodes, encodes and computes: other versions may give other digests
VERSIONS = ("numpy", "numba", "pillow", "simplejpeg")

# counts what is opened, in this process and those forked from it, and ends the run at the K-th
_KILLED = """
import mmap, os, runpy, sys
word, k, parent, seen = sys.argv[1], int(sys.argv[2]), os.getpid(), mmap.mmap(-1, 1)
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)) and word in os.fsdecode(arguments[0]):
        seen[0] += 1
        if seen[0] >= k:
            os.kill(parent, 9)
del sys.argv[1:3]
sys.addaudithook(hook)
runpy.run_module("normcli", run_name="__main__", alter_sys=True)
"""


def installed(extra: str) -> bool:
    """Return True if the packages of an extra are installed."""
    return importlib.util.find_spec(MODULES.get(extra, extra)) is not None


def environment() -> dict[str, str]:
    """Return the versions on which digests may depend."""
    return {"machine": platform.machine(), **{name: version(name) for name in VERSIONS}}


class Edition:
    """A checkout of normcli whose commands are run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        own = root / ".venv/bin/python"
        self.python = str(own) if own.exists() else sys.executable
        self.environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "LC_ALL": "C.UTF-8"}
        self.helps: Helps = {name: self._help(name) for name in _COMMANDS}

    def _help(self, name: str) -> str:
        done = subprocess.run(
            [self.python, "-m", "normcli", name, "--help"],
            cwd=self.root,  # which `-m` looks into first
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return done.stdout if done.returncode == 0 else ""

    def run(self, arguments: tuple[str, ...], cwd: Path, kill: Kill | None, stdin: str) -> tuple[int, bytes]:
        program = ["-m", "normcli"] if kill is None else ["-c", _KILLED, kill.word, str(kill.k)]
        done = subprocess.run(
            [self.python, *program, *spelling(arguments, self.helps)],
            input=stdin.encode(),
            capture_output=True,
            cwd=cwd,
            env=self.environment,
            timeout=300,
        )
        return done.returncode, done.stdout


_COMMANDS = ("stats", "apply", "restore", "verify", "merge", "show", "check", "diff", "tensor")


def measure(cell: Cell, edition: Edition, data: Path) -> dict[str, Any]:
    """Run a cell in a folder of its own beside the data; return its exit codes and digests."""
    folder = Path(tempfile.mkdtemp(dir=data))
    try:
        codes, printed = [], []
        for step in cell.steps:
            if step.remove:
                for path in filter(Path.is_file, folder.glob(step.remove)):
                    path.unlink()
            elif step.copy[1]:
                copytree(folder / step.copy[0], folder / step.copy[1])
            else:
                code, out = edition.run(step.arguments, folder, step.kill, step.stdin)
                codes.append(code)
                printed += [out] if step.stdout else []
        result: dict[str, Any] = {"exit": codes}
        if printed:
            result["stdout"] = _short(*printed)
        for path in sorted(folder.iterdir()):
            if not path.name.startswith((".", "copy")) and (digests := _digests(path)):
                result[path.name] = digests
        return result
    finally:
        rmtree(folder)


def _short(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _digests(path: Path) -> Any:
    """Digest one result: the state and the numbers of statistics, values of JSON lines, the arrays of a folder."""
    if path.is_dir():
        return _tree(path)
    if path.suffix == ".json":
        return _statistics(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        rows = [_numbers(json.loads(line)) for line in path.read_text().splitlines()]
        return _short(repr(rows).encode())
    return _short(_content(path)) if path.suffix in _ARRAYS else None


_NUMBERS = ("mean", "std", "min", "max", "percentiles", "conventions")


def _statistics(content: dict[str, Any]) -> dict[str, Any]:
    counts = {**content.get("state", {}), **content.get("inputs", {})}
    out = {"state": _short(json.dumps(counts, sort_keys=True).encode())} if counts else {}
    numbers = [_numbers(content[name]) for name in _NUMBERS if name in content]
    groups = content.get("groups") or {}
    numbers += [_numbers([group["mean"], group["std"]]) for _, group in sorted(groups.items())]
    return {**out, "numbers": _short(repr(numbers).encode())}


def _numbers(value: Any) -> list[float]:
    """List the numbers of nested JSON, sorted: names of keys and their order do not matter."""
    return sorted(_leaves(value))


def _leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


_ARRAYS = (".npy", ".npz", ".safetensors", ".tar", ".parquet", ".png", ".tif", ".tiff", ".pt", ".cls")


def _tree(folder: Path) -> str:
    """Digest names and contents of a folder's arrays and images; the manifest and hidden files are left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in _ARRAYS]
    rows = [(str(path.relative_to(folder)), _short(_content(path))) for path in files]
    hidden = [name for name, _ in rows if any(part.startswith(".") for part in Path(name).parts)]
    return _short(repr([row for row in rows if row[0] not in hidden]).encode()) + f" of {len(rows) - len(hidden)}"


def _content(path: Path) -> bytes:
    """Return the content of a file, without the version of the library that wrote it."""
    data = path.read_bytes()
    if path.suffix == ".png":
        return _png(data)
    if path.suffix in (".tif", ".tiff"):
        import tifffile

        array = tifffile.imread(io.BytesIO(data))
        return f"{array.dtype} {array.shape}".encode() + bytes(array.tobytes())
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return repr([sorted(map(repr, row.values())) for row in pq.read_table(path).to_pylist()]).encode()
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            rows = [(m.name, _short(archive.extractfile(m).read())) for m in archive if m.isfile()]  # type: ignore[union-attr]
        return repr(rows).encode() + _short(data).encode()
    if path.suffix == ".safetensors":  # the library writes the keys of the header in any order
        size = int.from_bytes(data[:8], "little")
        return json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode() + data[8 + size :]
    if path.suffix == ".pt":
        import torch

        return repr(torch.load(path)).encode()
    return data


def _png(data: bytes) -> bytes:
    header, body, place = b"", b"", 8
    while place < len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        chunk = data[place + 8 : place + 8 + size]
        header, body = (chunk if name == b"IHDR" else header), body + (chunk if name == b"IDAT" else b"")
        place += 12 + size
    return header + zlib.decompress(body)


def run(chosen: Iterable[Cell], root: Path, workers: int = 2) -> dict[str, dict[str, Any]]:
    """Run cells on an edition; return their results by name. Cells whose extras are absent are left out."""
    edition = Edition(root)
    extras = {name for name in ("parquet", "zst") if installed(name)}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        prepare(Path(folder), extras)
        ready = [cell for cell in chosen if all(map(installed, cell.needs))]
        results = pool.map(lambda cell: measure(cell, edition, Path(folder)), ready)
        return {cell.name: result for cell, result in zip(ready, results, strict=True)}


def differences(results: dict[str, dict[str, Any]], stored: dict[str, dict[str, Any]]) -> list[str]:
    """Return one line for each cell that is not as stored."""
    return [
        f"{name}: {key}: stored {stored.get(name, {}).get(key)}, now {result.get(key)}"
        for name, result in results.items()
        for key in sorted({*result, *stored.get(name, {})})
        if result.get(key) != stored.get(name, {}).get(key)
    ]


def load() -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return the versions under which the fixture was stored, and its cells."""
    content = json.loads(FIXTURE.read_text())
    return content["versions"], content["cells"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["store", "check"])
    parser.add_argument("names", nargs="*", metavar="CELL")
    parser.add_argument("--edition", type=Path, default=ROOT)
    options = parser.parse_args()
    chosen = [cell for cell in cells() if not options.names or cell.name.startswith(tuple(options.names))]
    results = run(chosen, options.edition.resolve())
    if options.action == "store":
        kept = load()[1] if options.names and FIXTURE.exists() else {}
        rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((kept | results).items()))
        FIXTURE.write_text(f'{{"versions": {json.dumps(environment())},\n"cells": {{\n{rows}\n}}}}\n')
        print(f"stored {len(results)} of {len(chosen)} cells")
        return 0
    found = differences(results, load()[1])
    print("\n".join(found) or f"{len(results)} cells as stored")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
