"""python -m benchmarks NAME [ARGUMENTS]: import benchmarks.NAME and call its `main`."""

import importlib
import sys
from pathlib import Path


def run(arguments: list[str]) -> int:
    """Run one benchmark and return its exit code."""
    names = sorted(p.stem for p in Path(__file__).parent.glob("[!_]*.py"))
    if not arguments or arguments[0] not in names:
        sys.stderr.write(f"python -m benchmarks NAME: choose from {', '.join(names)}\n")
        return 2
    return int(importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
