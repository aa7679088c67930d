"""Commands that have next to nothing to do, against the start of Python."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.timing import PYTHON, Row, alternating, seconds, show, takes


def main(arguments: list[str]) -> list[Row]:
    """Print how many times the start of Python each command takes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        return show(rows(Path(scratch), chosen.rounds))


def rows(scratch: Path, rounds: int) -> Iterator[Row]:
    """Measure each command in turn with `python -c pass`."""
    image, file = scratch / "one.png", scratch / "one.json"
    Image.new("RGB", (64, 64), (1, 2, 3)).save(image)
    normcli = [PYTHON, "-m", "normcli"]
    seconds([*normcli, "stats", str(image), "-q", "-o", str(file)])
    words = ["_NORMCLI_COMPLETE=complete_fish", "_TYPER_COMPLETE_FISH_ACTION=get-args"]
    completion = ["env", *words, "_TYPER_COMPLETE_ARGS=normcli stats --inter", *normcli]
    commands = {
        "pass": [PYTHON, "-c", "pass"],
        "imports": [PYTHON, "-c", "import numpy, typer"],
        "--version": [*normcli, "--version"],
        "show FILE": [*normcli, "show", str(file)],
        "--help": [*normcli, "--help"],
        "stats ONE": [*normcli, "stats", str(image)],
        "stats --inter<TAB>": completion,
    }
    times = alternating(commands, rounds)
    bounds = {"--version": 4, "show FILE": 8, "--help": 8, "stats ONE": 8, "stats --inter<TAB>": 6}
    for name, bound in bounds.items():
        yield takes(f"normcli {name}", "python -c pass", times[name], times["pass"], bound)
        if name == "stats ONE":  # the part of it that no code of normcli can make shorter
            yield takes(f"normcli {name}", "python -c 'import numpy, typer'", times[name], times["imports"])
            yield takes("import numpy, typer", "python -c pass", times["imports"], times["pass"])
