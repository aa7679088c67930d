"""`python -m benchmarks [NAME] [ARGUMENTS]`: run one benchmark, or all of them and print the table of docs/speed.md."""

import compileall
import importlib
import sys

from benchmarks.timing import ROOT, Row, markdown

NAMES = ("stats", "growth", "start", "lock", "containers", "volumes", "samples", "apply", "tensor")


def main() -> None:
    """Run the benchmark that the first argument names, or all."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n\nNAME: {', '.join(NAMES)}; each has a --help of its own")
        return
    if arguments:
        name = arguments.pop(0)
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}: choose from {', '.join(NAMES)}")
        run(name, arguments)
        return
    rows = [row for name in NAMES for row in run(name, [])]
    print(f"\n{markdown(rows)}")
    missed = [row for row in rows if row.met is False]
    print(f"\n{sum(row.met is True for row in rows)} targets met, {len(missed)} not")


def run(name: str, arguments: list[str]) -> list[Row]:
    """Run one benchmark and give its rows."""
    for folder in ("normcli", "benchmarks"):  # as pip does: a checkout may have no bytecode, or may not write any
        compileall.compile_dir(ROOT / folder, quiet=2)
    found: list[Row] = importlib.import_module(f"benchmarks.{name}").main(arguments)
    return found


if __name__ == "__main__":
    main()
