"""Peak memory of the command, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.command import ROOT

CODE = """
import re, sys
from pathlib import Path
from normcli.cli.main import run
code = run(sys.argv[1:])
sys.stdout.flush()
# not ru_maxrss: after exec that still holds the peak of the process that started this one
used = int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
sys.stderr.write(f"PEAK {used // 1024}\\n")
sys.exit(code)
"""


def peak(folder: Path, *arguments: Any, timeout: float = 120) -> tuple[int, "subprocess.CompletedProcess[bytes]"]:
    """Largest resident set in MB, threads only; and what the command said."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=folder, env=environment, timeout=timeout)
    assert b"Traceback" not in done.stderr, done.stderr
    return int(done.stderr.rpartition(b"PEAK ")[2]), done
