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
