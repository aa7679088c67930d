"""Peak memory of the command, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.command import ROOT

# a kernel that is not in the cache yet is compiled in another process: that takes 80 MB, once for a machine
CODE = """
import pickle, re, subprocess, sys
from pathlib import Path
from normcli.cli.main import run
from normcli.kernels import kernel as kernels

def load(kernel, types):
    of = pickle.dumps((kernel.py_func.__module__, kernel.__name__, types)).hex()
    subprocess.run([sys.executable, "-c", COMPILE, of], check=True)
    return load_code(kernel, types)

COMPILE = '''
import importlib, pickle, sys
from normcli.kernels.kernel import load_code
module, name, types = pickle.loads(bytes.fromhex(sys.argv[1]))
load_code(getattr(importlib.import_module(module), name), types)
'''
load_code, kernels.load_code = kernels.load_code, load
code = run(sys.argv[1:])
sys.stdout.flush()
# not ru_maxrss: after exec that still holds the peak of the process that started this one
used = int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
# pages of libraries that the system has in memory anyway: 50 to 125 MB, by how their files came there
maps = Path("/proc/self/smaps").read_text()
rows = re.findall("^[0-9a-f]+-.*?([^ ]*)\\n(?:.*\\n)*?Rss: *([0-9]+)", maps, re.MULTILINE)
used -= sum(int(size) for path, size in rows if ".so" in path)
sys.stderr.write(f"PEAK {used // 1024}\\n")
sys.exit(code)
"""


def peak(folder: Path, *arguments: Any, timeout: float = 120) -> tuple[int, "subprocess.CompletedProcess[bytes]"]:
    """Return the largest resident set in MB without code of libraries, threads only, and the command's output."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=folder, env=environment, timeout=timeout)
    assert b"Traceback" not in done.stderr, done.stderr
    return int(done.stderr.rpartition(b"PEAK ")[2]), done
