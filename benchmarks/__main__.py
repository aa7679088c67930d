"""`python -m benchmarks NAME [ARGUMENTS]`: run the module of that name, or list them."""

import importlib
import pkgutil
import sys

import benchmarks


def main(arguments: list[str]) -> int:
    names = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    if not arguments or arguments[0] not in names:
        sys.stderr.write(f"usage: python -m benchmarks {'|'.join(names)}\n")
        return 2
    importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
