"""Patterns of paths: globs as in .gitignore, groups by regex, and words for what matches nothing."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

import normcli
from normcli.errors import UsageError
from normcli.sources.listing import compile_patterns
from tests.support.command import Run
from tests.support.images import encoded, photograph

FILES = ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "test/dog/1.png", "top.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for i, name in enumerate(FILES):
        path = tmp_path / "ds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(seed=i)))
    with tarfile.open(tmp_path / "ds.tar", "w") as archive:
        for name in FILES:
            data = (tmp_path / "ds" / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return tmp_path / "ds"


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("val", {2}), ("val/", {2}), ("/val", {2}), ("cat", {0, 2}), ("cat/", {0, 2}), ("*/cat", {0, 2}),
        ("/cat", set()), ("*.png", {0, 1, 2, 3, 4}), ("/*.png", {4}), ("**/dog", {1, 3}), ("train/**", {0, 1}),
        ("**/1.png", {0, 1, 2, 3}), ("train/**/1.png", {0, 1}), ("t*", {0, 1, 3, 4}), ("[tv]?l", {2}),
        ("1.png/", set()), ("./val", {2}), ("*/*/1.png", {0, 1, 2, 3}), ("ds/val", set()), ("[!t]*/cat", {2}),
        ("t[", set()), (r"\val", {2}), ("*", {0, 1, 2, 3, 4}), ("*/*", {0, 1, 2, 3}), ("[z-a]", set()),
    ],
)  # fmt: skip
def test_globs_mean_what_gitignore_means(tree: Path, glob: str, matched: set[int]) -> None:
    matches = compile_patterns([glob])
    assert matches is not None
    assert {i for i, name in enumerate(FILES) if matches(name)} == matched
    if 0 < len(matched) < len(FILES):
        for source in (tree, f"{tree}/", tree.with_suffix(".tar")):
            assert normcli.stats(source, include=glob, engine="serial").images == len(matched)
            assert normcli.stats(source, exclude=glob, engine="serial").images == len(FILES) - len(matched)


@pytest.mark.parametrize("options", [(), ("-j", "3"), ("--engine", "serial"), ("--sample", "3")])
def test_a_pattern_that_matches_nothing_is_said_once(run: Run, tree: Path, options: tuple[str, ...]) -> None:
    done = run("stats", "ds", "ds.tar", "--exclude", "vall", "--exclude", "val", "--include", "*.png", *options)
    assert done.returncode == 0
    assert done.stderr.count(b"--exclude 'vall' matched nothing") == 1
    assert done.stderr.count(b"matched nothing") == 1


def test_apply_and_an_incremental_run_say_it_too(run: Run, tree: Path) -> None:
    applied = run("apply", "ds", "-o", "out", "-s", "standardize", "--exclude", "vall", "--exclude", "test")
    assert applied.returncode == 0 and applied.stderr.count(b"'vall' matched nothing") == 1
    assert applied.stderr.count(b"matched nothing") == 1
    for _ in range(2):
        again = run("stats", "ds", "-o", "s.json", "--incremental", "--exclude", "vall", "--exclude", "val")
        assert again.returncode == 0 and again.stderr.count(b"matched nothing") == 1


def test_python_logs_it(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    normcli.stats(tree, exclude=["vall", "val"], group_by="^nothing")
    assert sorted(record.getMessage() for record in caplog.records if record.levelname == "WARNING") == [
        "--exclude 'vall' matched nothing",
        "--group-by '^nothing' matched no image",
    ]


@pytest.mark.parametrize("source", ["ds", "ds/", "ds.tar"])
def test_the_regex_sees_the_path_below_the_source(run: Run, tree: Path, source: str) -> None:
    def groups(regex: str) -> set[str]:
        return set(json.loads(run("stats", source, "--group-by", regex, "--json").stdout)["groups"])

    assert groups("^(train|val)/") == {"train", "val", "(no match)"}
    assert groups(r"^(?P<split>\w+)/(?P<class>\w+)") == {"train/cat", "train/dog", "val/cat", "test/dog", "(no match)"}
    assert groups("^[^/]+") == {"train", "val", "test", "top.png"}


def test_a_missing_source_next_to_others_ends_the_run_before_it_starts(run: Run, tree: Path) -> None:
    for command in (("stats", "nothere/", "ds"), ("apply", "ds", "nothere/", "-o", "out", "-s", "unit")):
        done = run(*command)
        assert done.returncode == 2 and b"nothere/: no such file or folder" in done.stderr
    assert not (tree.parent / "out").exists()
    with pytest.raises(UsageError, match=re.escape("nothere")):
        normcli.stats([tree, tree.parent / "nothere"])


def test_a_source_that_is_named_twice_is_rejected(tree: Path, run: Run) -> None:
    done = run("stats", "ds", "ds")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"ds: the same SOURCE twice, its images would count double" in done.stderr
    for again in (f"{tree}/", tree / ".." / "ds"):
        with pytest.raises(UsageError, match=r"ds and .*: the same SOURCE twice"):
            normcli.stats([tree, again])
    assert normcli.stats([tree / "train", tree / "val"]).images == 3
