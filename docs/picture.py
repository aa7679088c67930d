"""Draw the README's picture: a terminal with the output of a command, as SVG.

`python docs/picture.py FOLDER` runs `normcli stats FOLDER` and writes docs/stats.svg.
"""

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100


def draw(folder: str) -> str:
    """Return the terminal as SVG."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    done = subprocess.run(
        [sys.executable, "-m", "normcli", "stats", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        env=environment,
    )
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), color_system="truecolor")  # noqa: SIM115, PTH123
    console.print(Text(f"$ normcli stats {Path(folder).name}/"))
    console.print(Text.from_ansi(done.stdout))
    return console.export_svg(title="normcli")


if __name__ == "__main__":
    (Path(__file__).parent / "stats.svg").write_text(draw(sys.argv[1]))
