"""The real command as a subprocess."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
# for `subprocess`: `normcli apply` of this checkout
APPLY = [sys.executable, "-m", "normcli", "apply"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
