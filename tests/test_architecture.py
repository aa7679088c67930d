"""The imports table of the design, held by reading every import with `ast`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

PACKAGE = Path(__file__).parent.parent / "normcli"

GROUND = ("errors", "late_imports", "platforms", "options", "kernels", "storage")
# part of the house -> the parts it may import; the rows of the design's "Who may import whom"
MAY_IMPORT: dict[str, set[str]] = {
    # ground floor
    "errors": set(),
    "late_imports": {"errors", "platforms"},
    "platforms": set(),
    "options": {"errors"},
    "kernels": {"errors", "platforms"},
    "storage": {"errors", "late_imports", "platforms"},
    # on it, without seeing each other; sinks encode through images
    "sources": {*GROUND},
    "sinks": {*GROUND, "images", "sources"},
    "images": {*GROUND},
    "engine": {*GROUND},
    "tally": {*GROUND},
    "schemes": {*GROUND, "constants"},
    "summary": {*GROUND, "tally"},
    "summary.views": {*GROUND, "summary", "constants", "report"},
    "constants": {*GROUND, "summary"},
    "report": {*GROUND, "summary", "constants", "tensor"},  # of tensor the types of what it draws
    # where they meet
    "runs": {
        *GROUND,
        *("sources", "sinks", "images", "engine", "tally", "schemes", "summary", "constants", "report"),
    },
    "tensor": {*GROUND},
    # the Python API; a notebook's progress bar is the command line's
    "api": {*GROUND, "keywords", "tensor", "runs", "sinks", "summary", "constants"},
    "keywords": {"errors", "options", "cli"},
    "cli": {
        "runs",
        "tensor",
        "sources",
        "sinks",
        "schemes",
        "summary",
        "constants",
        "report",
        "storage",
        "options",
        "errors",
        "platforms",
        "kernels",
    },
}

# third-party libraries that only one part may import
ONLY_IN = {
    "numba": "kernels",
    "typer": "cli",
    "rich": "cli",
    "tqdm": "cli",
    "fsspec": "storage",
    "distributed": "engine",
    "dask": "engine",
    "jinja2": "report",
}


# modules that may import more than their part: views holds the methods of Summary that show it in other tools' terms
MODULES_APART = {"summary/views.py": "summary.views"}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return MODULES_APART.get(relative.as_posix()) or relative.parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Return every module name that a source imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("late_imports."):
            found |= {str(first.value) for first in node.args[:1] if isinstance(first, ast.Constant)}
    return found


def violations(part: str, source: str) -> list[str]:
    wrong = []
    for name in imports(source):
        root, _, rest = name.partition(".")
        if root == "normcli":
            target = rest.partition(".")[0]
            if target in MAY_IMPORT and target != part and target not in MAY_IMPORT[part]:
                wrong.append(f"{part} imports {name}")
        elif root in ONLY_IN and part != ONLY_IN[root]:
            wrong.append(f"{part} imports {root}, which belongs to {ONLY_IN[root]}")
    return wrong


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    assert violations(part_of(path), path.read_text()) == []


def test_every_part_has_a_row() -> None:
    assert {part_of(p) for p in MODULES} <= set(MAY_IMPORT)


def test_the_check_sees_a_wrong_import() -> None:
    assert violations("tally", "from normcli.images import decode") == ["tally imports normcli.images.decode"]
    assert violations("images", "def f():\n    import numba")
    assert violations("images", "def f():\n    late_imports.required('numba', 'it', 'all')")
    assert violations("tally", "from normcli.kernels import pixels") == []


def test_no_public_verb_shares_a_modules_name() -> None:
    import normcli

    modules = {p.stem for p in PACKAGE.iterdir()}
    assert not modules & set(normcli.__all__)


def test_importing_normcli_loads_nothing_heavy() -> None:
    code = "import sys, normcli; print([m for m in ('numpy','numba','PIL','typer','rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "kind", "others"),
    [
        ("stats", "PNG", ["pillow_heif", "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "concurrent.futures"]),
        ("apply", "JPEG", ["PIL.Image", "normcli.sinks.tar", "normcli.sinks.parquet", "numpy.typing"]),
    ],
)
def test_a_file_loads_its_own_decoder_and_sink(command: str, kind: str, others: list[str], tmp_path: Path) -> None:
    """Each takes milliseconds, of a start of 100."""
    if kind == "JPEG":
        needs.module("simplejpeg")
    path = tmp_path / f"one.{kind.lower()}"
    path.write_bytes(encoded(photograph(20, 30), kind))
    output = {"stats": [], "apply": ["-o", str(tmp_path / "out"), "--preset", "imagenet"]}[command]
    code = (
        f"import sys; from normcli.cli.main import run; code = run({[command, str(path), '-q', *output]!r})\n"
        f"print([m for m in {others!r} if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == "[]\n"


def test_a_folder_of_many_images_loads_no_module_of_containers(tmp_path: Path) -> None:
    """The first names of a folder do not show its kind; the modules of Zarr took 12 ms to look for its marker."""
    for i in range(520):
        (tmp_path / f"{i:03}.jpg").touch()
    code = f"from normcli.sources import listing; print(listing.kind_of({str(tmp_path)!r}))"
    code += "; import sys; print([m for m in ('normcli.sources.zarr', 'normcli.sources.npy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["folder", "[]"]


@pytest.mark.parametrize("command", ["stats", "apply", "verify"])
def test_numpy_is_imported_near_the_bottom_of_the_stack(command: str, tmp_path: Path) -> None:
    """Imports of NumPy from a deep stack cross an end of a stack chunk a thousand times: 6 ms of system calls."""
    data = ROOT / "sample_data"
    arguments: dict[str, list[object]] = {
        "stats": [data / "scenes"],
        "apply": [data / "scenes", "-o", tmp_path, "--dry-run"],
        "verify": [data / "expected.json", data / "scenes"],
    }
    paths = [str(path) for path in arguments[command]]
    call = [sys.executable, "-X", "importtime", "-m", "normcli", command, *paths]
    done = subprocess.run(call, capture_output=True, text=True)
    lines = [line.rpartition("|")[2] for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert " numpy" in lines, lines  # two spaces more for each import around it
