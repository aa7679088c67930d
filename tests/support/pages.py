"""Run the code blocks of Markdown pages, and refresh the output that the pages show.

How a fenced block is treated depends on the first word after the fence:

- `bash`: runs in the folder of the page and must succeed.
- `python`: runs as a script and must succeed.
- `console`: every line that begins with `$ ` runs, and the page must show what it prints (stdout, then stderr). A line
  `...` stands for any number of lines, `...` at the end of a line for its rest; `$ echo $?` shows an exit code but 0.
- any language with `title="NAME"`: is parsed, and written to the file NAME, for the blocks after it.
- `text`, `json`, `toml`, `yaml`: does not run; the last three are parsed.
- `sh`: commands for a checkout, which .ci/run runs; parsed. `py`, `pycon`: signatures, and doctests, which pytest runs.

Commands in the column "command" of a table run after the blocks. Programs that cannot run in a test, such as sbatch,
have stand-ins (`tests.support.stand_ins`), which run the normcli part.

`python -m tests.support.pages [PAGE...]` writes the output of the console blocks anew; without PAGE, of every page.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support import needs, page_data
from tests.support.command import ROOT
from tests.support.stand_ins import STAND_INS

DOCS = ROOT / "docs"
LANGUAGES = ("bash", "console", "json", "make", "py", "pycon", "python", "sh", "text", "toml", "yaml")
# a word in a command -> the module that it needs
MODULES = {
    "torch": "torch",
    "dask": "distributed",
    "parquet": "pyarrow",
    "http": "aiohttp",
    "h5": "h5py",
    "hdf5": "h5py",
    "nc": "h5py",
    "mp4": "av",
    "nii": "nibabel",
    "zarr": "zarr",
}
_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# of the closing line of a command, which has the time and the speed of this run
_TIMES = re.compile(r", [\d.]+ s(, [\d,.]+ (images|files|tensors)/s)?$", re.MULTILINE)
# programs of other packages that a machine may not have
PROGRAMS = ("jq", "make", "git")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title and its text."""

    language: str
    title: str
    text: str

    @property
    def missing(self) -> str:
        """Return the module or program that the block needs and this machine lacks."""
        if self.title or self.language not in ("bash", "console", "python"):
            return ""
        words = set(re.findall(r"\w+", self.text))
        modules = [MODULES.get(word, word) for word in words if word in MODULES]
        modules += re.findall(r"^(?:import|from) (\w+)", self.text, re.MULTILINE) if self.language == "python" else []
        absent = [name for name in modules if name in needs.INSTALL and not _has(name)]
        absent += [name for name in PROGRAMS if name in words and not shutil.which(name)]
        return absent[0] if absent else ""


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def names() -> list[str]:
    """Return every page below docs that has a block, and the README."""
    pages = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if any(blocks(path.read_text("utf-8")))]
    return [path.relative_to(ROOT).as_posix() for path in pages]


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page.

    >>> list(blocks('```make title="Makefile"\\nall:\\n```\\n'))
    [Block(language='make', title='Makefile', text='all:\\n')]
    """
    for header, body in _FENCE.findall(text):
        yield _block(header, body)


def _block(header: str, body: str) -> Block:
    language, _, rest = header.strip().partition(" ")
    title = re.search(r'title="([^"]+)"', rest)
    return Block(language, title[1] if title else "", body)


def run_page(name: str, folder: Path) -> list[Block]:
    """Run every block of a page in a folder with the data that it names; return the blocks that did not run.

    Raises:
        AssertionError: a block fails, is not parsed, or does not print what the page shows.
    """
    return run_text((ROOT / name).read_text("utf-8"), prepared(name, folder))


def prepared(name: str, folder: Path) -> Path:
    """Return the folder, with the data that a page names."""
    page_data.prepare(name, folder)
    return folder


def run_text(text: str, folder: Path) -> list[Block]:
    """Run the blocks of a text in order; return those that need a module or program that this machine lacks."""
    left = []
    for block in blocks(text):
        if block.missing:
            left.append(block)
        else:
            run_block(block, folder)
    for command in table_commands(text):
        # no match is a result of `check`, not an error
        run_shell(f"{command} || [ $? -eq 1 ]" if command.startswith("normcli check") else command, folder)
    return left


def table_commands(text: str) -> Iterator[str]:
    """Yield the commands in the column "command" of the tables of a page, but not those with a word such as SOURCE.

    >>> list(table_commands("| job | command |\\n|---|---|\\n| print | `normcli show a.json` |\\n"))
    ['normcli show a.json']
    """
    column = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            column = None
        elif "command" in cells:
            column = cells.index("command")
        elif column is not None and (match := re.fullmatch(r"`([^`]+)`", cells[column])):
            command = match[1].replace(r"\|", "|")
            if not re.search(r"\b[A-Z]{2,}\b|\b[A-Z] [A-Z]\b", command):
                yield command


def run_block(block: Block, folder: Path) -> str:
    """Run or parse one block; return its stdout.

    Raises:
        AssertionError: it fails, or does not print what it shows.
    """
    assert block.language in LANGUAGES, f"unknown language {block.language!r} of a block\n{block.text}"
    parse(block)
    if block.title:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")
    elif block.language == "bash":
        return run_shell(block.text, folder)
    elif block.language == "python":  # in a file, because loaders that spawn processes import it
        (folder / "block.py").write_text(block.text, "utf-8")
        return _run([sys.executable, "block.py"], folder)
    elif block.language == "console":
        printed = session(block.text, folder)
        assert matches(block.text, printed), f"the page shows\n{block.text}\nbut the commands print\n{printed}"
    return ""


def parse(block: Block) -> None:
    """Parse a block by its language.

    Raises:
        AssertionError: it is not valid.
    """
    parsers: dict[str, Callable[[str], object]] = {
        "json": json.loads,
        "toml": tomllib.loads,
        "yaml": lambda text: list(yaml.safe_load_all(text)),
        "python": lambda text: compile(text, block.title or "block", "exec") if not _is_snakefile(block) else None,
        "bash": check_shell,
        "sh": check_shell,
    }
    try:
        parsers.get(block.language, str)(block.text)
    except (ValueError, SyntaxError, yaml.YAMLError) as error:
        raise AssertionError(f"{error}\n{block.text}") from error


def _is_snakefile(block: Block) -> bool:
    return block.title == "Snakefile"


def check_shell(text: str) -> None:
    """Parse a shell script without running it.

    Raises:
        AssertionError: the shell rejects it.
    """
    done = subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stderr.decode()}"


def run_shell(text: str, folder: Path) -> str:
    """Run shell commands, which must all succeed; return stdout."""
    return _run(["bash", "-euo", "pipefail", "-c", text], folder)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def session(text: str, folder: Path) -> str:
    """Return a console block with the output of its commands as it is now."""
    out = ""
    for line in text.splitlines():
        if not line.startswith("$ ") or line == "$ echo $?":
            continue
        done = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", line[2:]],
            cwd=folder,
            capture_output=True,
            env=environment(folder),
            timeout=300,
        )
        printed = _TIMES.sub("", (done.stdout + done.stderr).decode()).rstrip("\n")
        code = f"$ echo $?\n{done.returncode}" if done.returncode else ""
        out += "".join(f"{part}\n" for part in (line, printed, code) if part)
    return out.replace(f"{folder}/", "")


def matches(shown: str, printed: str) -> bool:
    """Return True if the output on a page is the one printed; `...` matches lines or the rest of a line.

    >>> matches("$ a\\n1\\n...\\n4\\n", "$ a\\n1\\n2\\n3\\n4\\n"), matches("$ a\\n1\\n", "$ a\\n2\\n")
    (True, False)
    >>> matches("$ a\\n1: ...\\n", "$ a\\n1: 2\\n"), matches("$ a\\n1: ...\\n", "$ a\\n1: 2\\n3\\n")
    (True, False)
    """
    patterns = ("(?:.*\n)*?" if line == "..." else _line_pattern(line) for line in shown.splitlines())
    return re.fullmatch("".join(patterns), printed) is not None


def _line_pattern(line: str) -> str:
    return re.escape(line.removesuffix("...")) + (".*" if line.endswith("...") else "") + "\n"


def rerun(text: str, folder: Path) -> str:
    """Run a page and return it with the present output of its console blocks; blocks with `...` that match stay."""

    def present(match: "re.Match[str]") -> str:
        block = _block(match[1], match[2])
        if block.missing:
            return match[0]
        if block.language != "console":
            run_block(block, folder)
            return match[0]
        printed = session(block.text, folder)
        return match[0] if matches(block.text, printed) else f"```{match[1]}\n{printed}```"

    return _FENCE.sub(present, text)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a reader: normcli of this checkout and the stand-ins on the path, no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NORMCLI_", "PYTEST_", "SLURM_"))}
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        kept.pop(name, None)
    path = os.pathsep.join([str(programs(folder)), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}


def programs(folder: Path) -> Path:
    """Return a folder, beside the given one, with normcli of this checkout and the stand-ins as programs."""
    place = folder.parent / f"{folder.name}.programs"
    if not place.exists():
        place.mkdir()
        for name in ("normcli", *STAND_INS):
            module = "normcli" if name == "normcli" else f"tests.support.stand_ins {name}"
            (place / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
            (place / name).chmod(0o755)
    return place


def main(pages: list[str]) -> None:
    """Write the console output of pages anew."""
    for name in pages or names():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "work"
            folder.mkdir()
            path = ROOT / name
            text = path.read_text("utf-8")
            try:
                fresh = rerun(text, prepared(name, folder))
            except AssertionError as error:
                print(f"{name}: a block fails\n{error}", file=sys.stderr)
                continue
            path.write_text(fresh, "utf-8")
            print(f"{name}: {'unchanged' if fresh == text else 'written'}")


if __name__ == "__main__":
    main(sys.argv[1:])
