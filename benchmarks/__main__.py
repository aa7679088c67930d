<<<<<<< HEAD
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
=======
"""`python -m benchmarks [NAME] [ARGUMENTS]`: run one benchmark, or list them."""

import importlib
import pkgutil
import sys

import benchmarks


def main() -> None:
    """Run the benchmark that the first argument names; `stats` without one."""
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name not in ("__main__", "timing"))
    arguments = sys.argv[1:]
    name = arguments.pop(0) if arguments and arguments[0] in names else "stats"
    if arguments and arguments[0] in ("-l", "--list"):
        print("\n".join(names))
        return
    importlib.import_module(f"benchmarks.{name}").main(arguments)


if __name__ == "__main__":
    main()
>>>>>>> main
