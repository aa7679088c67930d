"""No file is opened outside what was named; nothing in an input is run, unpickled, rendered or connected to.

Python tells an audit hook of every open, exec, unpickling, process and connection. The hook below sees all
of them while the commands go through a folder made to tempt them.
"""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import needs
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

CODE = """
import json, os, sys, sysconfig
allowed_to_read, allowed_to_write = (json.loads(word) for word in sys.argv[1:3])
installed = [sys.prefix, sys.base_prefix, *map(os.path.realpath, sysconfig.get_paths().values())]
installed.append(os.environ["PYTHONPATH"] + "/normcli")
system = ["/proc/", "/sys/", "/dev/null", "/usr/lib", "/usr/local/lib", "/lib"]
wrong, seen = [], {}

def below(path, folders):
    return any(path == folder.rstrip("/") or path.startswith(folder.rstrip("/") + "/") for folder in folders)

def callers():
    frame, files = sys._getframe(2), []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return files

def hook(event, arguments):
    seen[event] = seen.get(event, 0) + 1
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int) or path is None:
            return
        path = os.path.abspath(os.fsdecode(path))
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if flags else "w" in (mode or "")
        if writes:
            if not below(path, [*allowed_to_write, "/dev/null"]):
                wrong.append(("write", path))
        elif not below(path, [*allowed_to_read, *allowed_to_write, *installed, *system]):
            wrong.append(("read", path))
    elif event == "exec":
        name = arguments[0].co_filename
        if not (name.startswith("<frozen") or below(os.path.realpath(name), installed)):
            if not below(os.path.realpath(callers()[0]), installed):  # namedtuple and dataclass make code from strings
                wrong.append(("exec", name))
    elif event == "pickle.find_class":
        if not any("/numba/core/caching" in file or "/normcli/kernels/" in file for file in callers()):
            wrong.append(("pickle", str(arguments)))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.startfile", "pty.spawn",
                   "socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request", "webbrowser.open"):
        wrong.append((event, str(arguments)[:200]))

from normcli.cli.main import run
sys.addaudithook(hook)
codes = []
for command in json.loads(sys.argv[3]):
    codes.append(run(command))
sys.stdout.flush()
sys.stderr.write("\\nAUDIT " + json.dumps({"wrong": wrong, "seen": seen, "codes": codes}))
sys.stderr.flush()
os._exit(0)
"""


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def tempting(folder: Path, marker: Path) -> None:
    """Files that ask for an interpreter, a renderer, an unpickler, another file, a server."""
    folder.mkdir()
    picture = encoded(photograph(16, 16), "JPEG")
    (folder / "good.jpg").write_bytes(picture)
    (folder / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run showpage\n")
    (folder / "svg.png").write_bytes(b'<svg><image href="file:///etc/passwd"/></svg>')
    (folder / "pdf.png").write_bytes(b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n")
    (folder / "msl.jpg").write_bytes(b'<image><read filename="/etc/passwd"/></image>')
    (folder / "gvfs.jpg").write_bytes(b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x.jpg'\n")
    (folder / "link.jpg").symlink_to("/etc/hostname.jpg")
    evil = np.array([Evil(marker)], dtype=object)
    np.save(folder / "objects.npy", evil, allow_pickle=True)
    np.savez(folder / "objects.npz", images=evil)
    for name in ("pickle.pt", "pickle.npy", "pickle.pth"):
        (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, kind, target in (
            ("l.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("h.jpg", tarfile.LNKTYPE, "/etc/passwd"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
        for name in ("../../out.jpg", "/etc/out.jpg", "in.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))
    with zipfile.ZipFile(folder / "a.zip", "w") as packed:
        for name in ("../out.jpg", "/etc/out.jpg", "in.jpg"):
            packed.writestr(name, picture)
    (folder / "config.py").write_text(
        f"import os\nos.system('touch {marker}')\nmean = __import__('os').system('touch {marker}') or [0.5]\n"
        "Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])\n"
    )
    (folder / "config.yaml").write_text(f"mean: !!python/object/apply:os.system ['touch {marker}']\nstd: [1]\n")
    (folder / "config.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "file": "/etc/passwd"}')


def hostile_manifest(folder: Path) -> None:
    """Write an output of apply whose manifest has names that lead to other files."""
    path = folder / "normcli.json"
    document = json.loads(path.read_text())
    record = document["files"][0]
    for name in ("../../escaped", "/etc/escaped", "a/../../../escaped"):
        document["files"].append({**record, "name": name})
    path.write_text(json.dumps(document))


def test_nothing_is_opened_or_run_that_was_not_named(tmp_path: Path) -> None:
    import normcli

    marker, source, out = tmp_path / "marker", tmp_path / "source", tmp_path / "out"
    tempting(source, marker)
    out.mkdir()
    for name in ("foreign", "foreign2"):
        normcli.apply(source / "good.jpg", tmp_path / name, scheme="unit", engine="serial")
        hostile_manifest(tmp_path / name)
    every = [str(source / name) for name in ("a.tar", "a.zip", "objects.npy", "objects.npz", "pickle.npy")]
    statistics = str(out / "s.json")
    commands: list[list[str]] = [
        ["stats", str(source), "-o", statistics, "-q", "--include", "*", "--engine", "threads"],
        ["stats", *every, "-o", str(out / "containers.json"), "-q", "--engine", "threads"],
        ["apply", str(source), "-o", str(out / "applied"), "-s", "unit", "-q", "--include", "*"],
        ["restore", str(tmp_path / "foreign"), "-o", str(out / "back"), "-q"],
        ["verify", str(tmp_path / "foreign2")],
        *(
            ["tensor", "batch-norm", str(source / n), "--layout", "NC", "-o", str(out / "y.npy"), "-q"]
            for n in ("objects.npy", "objects.npz", "pickle.npy", "pickle.pt", "pickle.pth")
        ),
        ["show", statistics],
        ["merge", statistics, statistics, "--force", "-o", str(out / "m.json"), "-q"],
        *(["check", statistics, "--config", str(source / n)] for n in ("config.py", "config.yaml", "config.json")),
    ]
    cache = tmp_path / "cache"
    read = [str(source), str(tmp_path / "foreign"), str(tmp_path / "foreign2")]
    write = [str(out), str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["TMPDIR"] = str(cache)  # torch imports dill where it is installed, which looks for a temporary folder
    cache.mkdir()
    arguments = [json.dumps(part) for part in (read, write, commands)]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, env=environment, cwd=out, timeout=120
    )
    said, _, last = done.stderr.rpartition(b"AUDIT ")
    assert last and b"Traceback" not in said, done.stderr
    found = json.loads(last)
    print(dict(zip([" ".join(c[:2]) for c in commands], found["codes"], strict=True)), said.decode())
    assert found["wrong"] == []
    assert found["seen"]["open"] > 50  # it was listening
    assert not marker.exists() and not list(tmp_path.glob("escaped*"))
    assert found["codes"][0] == 3 and b"internal error" not in said and b"No such option" not in said


def test_the_hook_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """Evil that is run is seen: the same hook around an open, a process and an unpickling."""
    code = CODE.replace(
        "from normcli.cli.main import run",
        "import pickle\ndef run(word):\n    open('/etc/hostname').close()\n    os.system('true')\n"
        "    pickle.loads(pickle.dumps(OSError))\n    exec(compile('1', '/etc/x', 'exec'))",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, "[]", "[]", '["x"]'], capture_output=True, env=environment)
    found = json.loads(done.stderr.rpartition(b"AUDIT ")[2])
    assert {what for what, _ in found["wrong"]} >= {"read", "os.system", "pickle"}


if not hasattr(os, "posix_fallocate"):
    needs.skip("Linux: the paths of this test are its own")
