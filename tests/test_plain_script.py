"""normcli called from a script without a `__main__` guard, while another thread is alive."""

import subprocess
import sys
from pathlib import Path

from tests.support.command import ENVIRONMENT
from tests.support.images import encoded, photograph

SCRIPT = """
import threading
import normcli
from normcli.engine import local
local._DEAR = 1.0  # seconds: on a slow machine too the images count as small, and processes as worth their while
print("top", flush=True)
ended = threading.Event()
threading.Thread(target=ended.wait, daemon=True).start()
for _ in range(1):
    assert normcli.stats("in", workers=2).images == 1500
assert normcli.stats("in", margin=0.2, seed=1).sample["read"] < 1500
"""


def test_a_plain_script_is_not_run_again(tmp_path: Path) -> None:
    """Under "auto" a spawned process would run it from its top: with small images five times."""
    (tmp_path / "in").mkdir()
    data = encoded(photograph(4, 4))
    for number in range(1500):
        (tmp_path / f"in/{number}.png").write_bytes(data)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "top\n"), done.stderr


CLOSED = """
import threading
from normcli import engine
running = engine.run(lambda batch: sum(batch), ([n] for n in range(10_000)), engine="threads", workers=2)
assert next(running) == 0
running.close()
print(threading.active_count())
"""


def test_a_run_that_has_enough_leaves_no_thread(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CLOSED], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", done.stderr
