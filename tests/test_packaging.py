"""Packaging: wheel, sdist, citation, hooks of pre-commit, GitHub Action, container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

import normcli
from normcli.cli.env import EXTRAS
from normcli.cli.main import COMMANDS
from tests.support import needs
from tests.support.command import ENVIRONMENT, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHARED = {
    "share/man/man1/normcli.1",
    "share/bash-completion/completions/normcli",
    "share/zsh/site-functions/_normcli",
    "share/fish/vendor_completions.d/normcli.fish",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel and an sdist, built once and without the network."""
    needs.modules("build", "hatchling")
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def yaml_blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml[^\n]*\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def package_files() -> set[str]:
    files = (path for path in (ROOT / "normcli").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


class TestWheel:
    @pytest.fixture
    def wheel(self, built: Path) -> zipfile.ZipFile:
        (path,) = built.glob("*.whl")
        return zipfile.ZipFile(path)

    def test_it_has_the_package_and_what_the_shell_needs_and_nothing_else(self, wheel: zipfile.ZipFile) -> None:
        with wheel:
            names = set(wheel.namelist())
        stem = f"normcli-{normcli.__version__}"
        assert {name for name in names if name.startswith("normcli/")} == package_files()
        data = {name.removeprefix(f"{stem}.data/data/") for name in names if name.startswith(f"{stem}.data/")}
        assert data == SHARED
        rest = {name.partition("/")[0] for name in names}
        assert rest == {"normcli", f"{stem}.data", f"{stem}.dist-info"}

    def test_its_metadata(self, wheel: zipfile.ZipFile) -> None:
        with wheel:
            text = wheel.read(f"normcli-{normcli.__version__}.dist-info/METADATA").decode()
        assert f"Version: {normcli.__version__}\n" in text and "License-Expression: MIT\n" in text
        for name, url in PROJECT["urls"].items():
            assert f"Project-URL: {name}, {url}\n" in text
        assert {f"Provides-Extra: {extra}" for extra in PROJECT["optional-dependencies"]} <= set(text.splitlines())

    def test_its_files_make_reports_and_print_the_schema(self, wheel: zipfile.ZipFile, tmp_path: Path) -> None:
        needs.module("jinja2")
        with wheel:
            wheel.extractall(tmp_path / "site")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        statistics = str(ROOT / "sample_data" / "expected.json")
        for arguments, words in (
            (["show", statistics, "--report", "page.html"], ""),
            (["show", "--schema"], '"$schema"'),
            (["env"], f"package        {tmp_path / 'site' / 'normcli'}\n"),
        ):
            command = [sys.executable, "-m", "normcli", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "") and words in done.stdout
        assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")


class TestSdist:
    @pytest.fixture
    def names(self, built: Path) -> set[str]:
        (path,) = built.glob("*.tar.gz")
        with tarfile.open(path) as archive:
            return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}

    def test_it_has_every_file_of_the_repository(self, names: set[str]) -> None:
        if not (ROOT / ".git").exists():
            needs.skip(needs.CLONE)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        tracked = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
        assert tracked - names == set()

    def test_it_has_what_tests_and_docs_need(self, names: set[str]) -> None:
        for top in ("tests/conftest.py", "docs/normcli.1", "docs/manual.py", "sample_data/expected.json", "README.md"):
            assert top in names
        assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist/", ".mypy"))]


class TestProject:
    def test_all_has_every_other_extra_but_that_of_the_tests(self) -> None:
        extras = PROJECT["optional-dependencies"]
        (everything,) = extras["all"]
        assert set(re.findall(r"\w+", everything)) - {"normcli"} == extras.keys() - {"all", "test"}

    def test_urls_are_of_one_place(self) -> None:
        cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"]
        assert set(PROJECT["urls"]) >= {"Homepage", "Documentation", "Changelog", "Issues"}
        assert all(url.startswith(cited) for url in PROJECT["urls"].values())

    def test_env_names_the_packages_of_every_extra(self) -> None:
        shown = {extra: set(packages) for extra, packages in EXTRAS.items()}
        declared = {
            extra: {re.split(r"[\[<>=;~! ]", one)[0] for one in ones}
            for extra, ones in PROJECT["optional-dependencies"].items()
            if extra not in ("all", "test")
        }
        assert shown.keys() == declared.keys()
        assert {extra: missing for extra in declared if (missing := declared[extra] - shown[extra])} == {}


class TestCitation:
    """The keys of the Citation File Format 1.2.0, which GitHub and Zenodo read."""

    REQUIRED = ("authors", "cff-version", "message", "title")
    KNOWN = (
        *REQUIRED,
        *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license"),
        *("license-url", "preferred-citation", "references", "repository", "repository-artifact", "repository-code"),
        *("type", "url", "version"),
    )

    @pytest.fixture
    def citation(self) -> dict[str, Any]:
        found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert isinstance(found, dict)
        return found

    def test_keys_and_values(self, citation: dict[str, Any]) -> None:
        assert set(self.REQUIRED) <= citation.keys() <= set(self.KNOWN)
        assert citation["cff-version"] == "1.2.0" and citation["type"] in ("software", "dataset")
        assert all(isinstance(citation[key], str) and citation[key] for key in ("message", "title", "abstract"))
        assert len(citation["keywords"]) == len(set(citation["keywords"])) > 0
        assert citation["repository-code"].startswith("https://")

    def test_authors_are_persons_or_entities(self, citation: dict[str, Any]) -> None:
        assert citation["authors"]
        for author in citation["authors"]:
            assert "name" in author or {"family-names", "given-names"} <= author.keys()

    def test_it_agrees_with_the_package(self, citation: dict[str, Any]) -> None:
        assert str(citation["version"]) == normcli.__version__ and citation["license"] == PROJECT["license"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two splits, the statistics of the first, and a config with ImageNet's constants."""
    shutil.copytree(ROOT / "sample_data" / "scenes", tmp_path / "photos")
    normcli.stats(tmp_path / "photos" / "train").save(tmp_path / "stats.json")
    normcli.stats(tmp_path / "photos" / "val").save(tmp_path / "val.json")
    (tmp_path / "good.yaml").write_text(normcli.load(tmp_path / "stats.json").format("yaml"))
    (tmp_path / "bad.yaml").write_text("mean: [0.1, 0.2, 0.3]\nstd: [0.5, 0.5, 0.5]\n")
    return tmp_path


def shell(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script as GitHub's runners do, with `normcli` of this checkout."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "normcli"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m normcli "$@"\n')
    program.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    settings = {**ENVIRONMENT, **environment, "PATH": path}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)


class TestPreCommitHooks:
    HOOKS: ClassVar = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    # arguments with which the hook passes, and with which it fails
    RUNS: ClassVar = {
        "normcli-check": (["stats.json", "photos/train"], ["stats.json", "photos/val"]),
        "normcli-constants": (["stats.json", "--config", "good.yaml"], ["stats.json", "--config", "bad.yaml"]),
        "normcli-diff": (
            ["stats.json", "val.json", "--max-shift", "0.3"],
            ["stats.json", "val.json", "--max-shift", "0"],
        ),
    }

    def test_the_page_shows_every_hook_with_arguments(self) -> None:
        shown = next(block for block in yaml_blocks("docs/how-to/pre-commit.md") if "rev: " in block)
        (repository,) = yaml.safe_load(shown)["repos"]
        assert repository["repo"] == PROJECT["urls"]["Homepage"] and repository["rev"] == f"v{normcli.__version__}"
        assert [hook["id"] for hook in repository["hooks"]] == list(self.RUNS)
        assert all(len(hook["args"]) == len(self.RUNS[hook["id"]][0]) for hook in repository["hooks"])

    def test_pre_commit_accepts_them(self) -> None:
        client = needs.module("pre_commit.clientlib")
        assert [hook["id"] for hook in client.load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))] == list(self.RUNS)

    @pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: str(hook["id"]))
    def test_they_pass_and_fail(self, hook: dict[str, Any], work: Path) -> None:
        good, bad = self.RUNS[hook["id"]]
        assert hook["entry"].split()[1] in COMMANDS and hook["pass_filenames"] is False
        done = shell(f"{hook['entry']} {shlex.join(good)}", work)
        assert done.returncode == 0, done.stderr
        done = shell(f"{hook['entry']} {shlex.join(bad)}", work)
        assert done.returncode == 1, done.stderr


class TestAction:
    ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
    STEPS = ACTION["runs"]["steps"]

    def test_its_inputs(self) -> None:
        inputs = self.ACTION["inputs"]
        assert {"sources", "stats", "max-shift"} <= inputs.keys()
        assert all(
            given["description"] and ("default" in given) != given.get("required", False) for given in inputs.values()
        )
        assert {name for name, given in inputs.items() if given.get("required")} == {"sources", "stats"}

    def test_the_page_shows_every_input(self) -> None:
        text = (ROOT / "docs/how-to/github-action.md").read_text()
        assert re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE) == list(self.ACTION["inputs"])
        shown = next(block for block in yaml_blocks("docs/how-to/github-action.md") if "normcli/normcli@" in block)
        (job,) = yaml.safe_load(shown)["jobs"].values()
        (step,) = (step for step in job["steps"] if step["uses"].startswith("normcli/"))
        assert step["uses"] == f"normcli/normcli@v{normcli.__version__}"
        assert list(step["with"]) == ["sources", "stats", "max-shift"]

    def test_no_input_becomes_code(self) -> None:
        scripts = [step["run"] for step in self.STEPS if "run" in step]
        assert scripts and not [script for script in scripts if "${{" in script]
        assert all(step["shell"] == "bash" for step in self.STEPS if "run" in step)
        used = set(re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text()))
        assert used == self.ACTION["inputs"].keys()

    def test_other_actions_are_those_of_the_workflow(self) -> None:
        workflow = (ROOT / ".github/workflows/test.yml").read_text()
        used = [step["uses"] for step in self.STEPS if "uses" in step]
        assert used and all(re.search(r"@[0-9a-f]{40}$", name) and name in workflow for name in used)

    @pytest.mark.parametrize(
        ("sources", "shift", "code"),
        [
            ("photos/train", "", 0),
            ("photos/val", "", 1),
            ("photos/train\n\nphotos/val", "0.5", 0),
            ("photos/val\n", "0.01", 1),
            ("absent $(touch hacked)", "0.5", 4),
        ],
    )
    def test_its_script(self, sources: str, shift: str, code: int, work: Path) -> None:
        (script,) = (step["run"] for step in self.STEPS if step.get("id") == "compare")
        output = work / "output"
        output.touch()
        names = {"RUNNER_TEMP": str(work), "GITHUB_OUTPUT": str(output)}
        done = shell(script, work, SOURCES=sources, STATS="stats.json", MAX_SHIFT=shift, **names)
        assert done.returncode == code, done.stderr
        assert not (work / "hacked").exists()
        if shift and code != 4:
            name, _, path = output.read_text().strip().partition("=")
            assert name == "statistics" and normcli.load(path).images in (12, 48)


class TestContainer:
    TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    INSTRUCTIONS: ClassVar = [
        tuple(line.split(None, 1)) for line in TEXT.splitlines() if line and not line.startswith("#")
    ]

    def values(self, name: str) -> list[str]:
        return [value for instruction, value in self.INSTRUCTIONS if instruction == name]

    def test_hadolint_finds_nothing(self) -> None:
        program = needs.tool("hadolint")
        done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")

    def test_it_is_slim_and_runs_as_a_numbered_user(self) -> None:
        assert len(self.INSTRUCTIONS) <= 15
        assert all(re.match(r"python:3\.\d+-slim\b", image) for image in self.values("FROM"))
        (user,) = self.values("USER")
        assert user.isdigit() and int(user) > 0 and f"--uid {user} " in self.TEXT
        last = [instruction for instruction, _ in self.INSTRUCTIONS]
        assert "RUN" not in last[last.index("USER") :]
        assert self.values("ENTRYPOINT") == ['["normcli"]']
        pips = [run for run in self.values("RUN") if "pip " in run]
        assert pips and all("--no-cache-dir" in run for run in pips)
        assert "ADD" not in last and f"Programming Language :: Python :: {self.values('FROM')[0][7:11]}" in str(PROJECT)

    def test_its_extras_exist(self) -> None:
        (extras,) = (value.partition("=")[2] for value in self.values("ARG"))
        assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()

    def test_its_context_has_what_the_wheel_is_built_from(self) -> None:
        lines = (ROOT / ".dockerignore").read_text().split()
        assert lines[0] == "*"
        kept = {line[1:] for line in lines if line.startswith("!")}
        assert all((ROOT / name).exists() for name in kept)
        hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
        shipped = {*hatch["build"]["targets"]["wheel"]["shared-data"], hatch["version"]["path"]}
        shipped |= {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
        assert [name for name in shipped if not any(name == one or name.startswith(f"{one}/") for one in kept)] == []

    def test_a_wheel_is_built_from_its_context_alone(self, tmp_path: Path, built: Path) -> None:
        for name in (line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")):
            source, target = ROOT / name, tmp_path / "context" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            str(tmp_path),
            str(tmp_path / "context"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (ours_path,), (full_path,) = tmp_path.glob("*.whl"), built.glob("*.whl")
        with zipfile.ZipFile(ours_path) as ours, zipfile.ZipFile(full_path) as full:
            assert set(ours.namelist()) == set(full.namelist())
