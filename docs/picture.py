"""Draw the README's picture: a terminal with the output of a command, as SVG.

`python docs/picture.py` runs `normcli stats sample_data/scenes` and writes docs/stats.svg; a test compares its numbers.
"""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
FOLDER = "sample_data/scenes"
WIDTH = 100


def draw() -> str:
    """Return the terminal as SVG."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        [sys.executable, "-m", "normcli", "stats", FOLDER],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        env=environment,
    )
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), color_system="truecolor")  # noqa: SIM115, PTH123
    console.print(Text(f"$ normcli stats {FOLDER}"))
    console.print(Text.from_ansi(done.stdout))
    return console.export_svg(title="normcli")


if __name__ == "__main__":
    (Path(__file__).parent / "stats.svg").write_text(draw())
