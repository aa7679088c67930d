"""Patterns of paths: globs as in .gitignore, groups by regex, and messages about patterns that match nothing."""

import io
import json
import logging
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from normcli.sources.listing import compile_patterns
from tests.support import needs
from tests.support.command import Run, run_here
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
    normcli.stats(tree, exclude=["vall", "val"], group_by=r"^nothing\d")
    assert sorted(record.getMessage() for record in caplog.records if record.levelname == "WARNING") == [
        "`exclude` 'vall' matched nothing",
        r"`group_by` '^nothing\d' matched no image",
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
    same = str(tree)
    with pytest.raises(UsageError, match=r"the same SOURCE twice"):  # one string object: it was counted double
        normcli.stats([same, same])
    assert normcli.stats([tree / "train", tree / "val"]).images == 3


@pytest.mark.parametrize("options", [[], ["--incremental", "-o", "s.json"], ["--shard", "1/1"], ["--sample", "2"]])
@pytest.mark.parametrize("form", ["list", "table"])
def test_a_line_that_comes_again_is_reported(form: str, options: list[str], tree: Path) -> None:
    """Images of a repeated line count again, with a message: a list may draw with repetition, or be an accident."""
    paths = [str(path) for path in sorted(tree.rglob("*.png"))]
    lines = [*paths, paths[0], f"{tree}/../{tree.name}/{Path(paths[1]).relative_to(tree)}", paths[0]]
    (tree.parent / "l.csv").write_text("path\n" + "\n".join(lines))
    (tree.parent / "l.txt").write_text("\n".join(lines))
    named = ["--files-from", tree.parent / "l.txt"] if form == "list" else [tree.parent / "l.csv"]
    more = [tree.parent / option if option.endswith(".json") else option for option in options]
    done = run_here("stats", *named, *more, "-j", 1, "--json")
    words = f"3 of {len(lines)} lines name files that were named before: their images count again"
    assert done.err.count(words) == 1, done.err
    (tree.parent / "l.txt").write_text("\n".join(paths))
    assert "named before" not in run_here("stats", "--files-from", tree.parent / "l.txt", "--json").err


def _rejection(*sources: object, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        normcli.stats([str(source) for source in sources], **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "reported"),
    [("image,path", True), ("path,url", False), ("path,label", False), ("file,file_name", True)],
)
def test_of_two_columns_of_paths_none_is_taken_in_silence(
    columns: str, reported: bool, suffix: str, tree: Path
) -> None:
    one, two = (str(tree / name) for name in ("train/cat/1.png", "top.png"))
    names = columns.split(",")
    rows = {"csv": f"{columns}\n{one},{two}\n", "jsonl": json.dumps(dict(zip(names, (one, two), strict=True)))}
    (tree.parent / f"t.{suffix}").write_text(rows[suffix])
    done = run_here("stats", tree.parent / f"t.{suffix}")
    assert done.code == 0 and ("has other paths; images are read from column" in done.err) == reported
    asked = run_here("stats", tree.parent / f"t.{suffix}", "-O", f"column={names[0]}")
    assert asked.code == 0 and "other paths" not in asked.err


def test_a_glob_in_quotes_is_expanded(tree: Path, run: Run) -> None:
    assert json.loads(run("stats", "ds/*/cat", "--json").stdout)["images"] == 2
    assert json.loads(run("stats", "ds/**/1.png", "--json").stdout)["images"] == 4


def test_a_source_inside_another_one_is_rejected_unless_that_one_leaves_it_out(tree: Path) -> None:
    train, top = tree / "train", tree / "top.png"
    for inner in (train, train / "cat", top, tree / "train" / ".." / "val"):
        for order in ((tree, inner), (inner, tree)):
            assert f"{inner}: is part of {tree}: its images would count double" in _rejection(*order)
    assert "is part of" in _rejection(tree / "**")
    alone = normcli.stats(tree).images
    assert normcli.stats([tree, train], exclude="train").images == alone
    assert "is part of" in _rejection(tree, train, exclude="val")
    hidden = tree / ".hidden"
    hidden.mkdir()
    shutil.copy(top, hidden / "a.png")
    assert normcli.stats([tree, hidden]).images == alone + 1
    archive = tree / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(top, "a.png")
    assert normcli.stats([tree, archive]).images == alone + 1, "a folder does not read the archives in it"
    with pytest.raises(UsageError, match="is part of"):
        normcli.apply([tree, top], tree.parent / "out", scheme="unit")


@pytest.mark.skipif(os.name == "nt", reason="links require a privilege")
def test_links_to_other_sources_count_once(tree: Path) -> None:
    other = tree.parent / "other"
    shutil.copytree(tree / "val", other)
    (tree / "link").symlink_to(other, target_is_directory=True)
    (tree / "link.png").symlink_to(tree / "top.png")
    (tree.parent / "ds2.tar").symlink_to(tree.parent / "ds.tar")
    assert "the same SOURCE twice" in _rejection(tree.parent / "ds.tar", tree.parent / "ds2.tar")
    assert normcli.stats([tree, other]).images == normcli.stats(tree).images + normcli.stats(other).images
    assert f"{other}: is part of {tree}" in _rejection(tree, other, follow_symlinks=True)
    assert "link.png: is part of" in _rejection(tree, tree / "link.png")
    assert "the same SOURCE twice" in _rejection(other, tree / "link")


def test_lists_that_name_files_of_a_folder_are_rejected_next_to_it(tree: Path, run: Run) -> None:
    table = tree.parent / "labels.csv"
    table.write_text("path,label\nds/top.png,a\n", encoding="utf-8")
    assert f"{table}: names {tree}{os.sep}top.png, which is part of {tree}" in _rejection(tree, table)
    assert normcli.stats([tree / "val", table]).images == normcli.stats(tree / "val").images + 1
    assert "top.png: is part of" in _rejection(tree, files=[str(tree / "top.png")])
    names = tree.parent / "names.txt"
    names.write_text("ds/top.png\n", encoding="utf-8")
    done = run("stats", "ds", "--files-from", "names.txt")
    assert (done.returncode, done.stdout) == (2, b"") and b"ds/top.png: is part of ds" in done.stderr


ROWS = {"h.parquet": ("0", "1"), "j.arrow": ("0000000", "0000001"), "n.npy": ("0", "1")}


def rows_of(source: str, folder: Path) -> Path:
    """Write a table or an array of ten images, of which the first has other values."""
    arrays = np.stack([photograph(8, 9, seed=i) for i in range(10)])
    path = folder / source
    if source == "n.npy":
        np.save(path, arrays)
        return path
    pa = needs.module("pyarrow")
    table = pa.table({"image": [encoded(array) for array in arrays]})
    if source == "h.parquet":
        needs.module("pyarrow.parquet").write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("source", ROWS)
def test_patterns_select_rows_by_their_numbers(source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They were counted nevertheless, and the patterns were taken for used."""
    path = rows_of(source, tmp_path)
    first, second = ROWS[source]
    means = [photograph(8, 9, seed=i).mean((0, 1)) / 255 for i in range(10)]
    without = normcli.stats(path, exclude=[first, second])
    assert (without.images, without.skipped) == (8, 2)
    assert without.mean == pytest.approx(np.mean(means[2:], axis=0), rel=1e-12)
    assert normcli.stats(path, include=second).mean == pytest.approx(means[1], rel=1e-12)
    assert normcli.stats(path, include=f"*{path.suffix}").images == 10
    saved = normcli.stats(path, output=tmp_path / "s.json", incremental=True)
    again = normcli.stats(path, output=tmp_path / "s.json", incremental=True, force=True, exclude=[first, second])
    assert (saved.images, again.state) == (10, without.state)
    applied = normcli.apply(path, tmp_path / "out", scheme="unit", exclude=[first, second])
    assert applied.images == 8
    assert "matched nothing" not in caplog.text


def test_patterns_select_among_files_that_are_named(
    tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As SOURCE, in a list of paths or in a table: `include` was without effect, `exclude` was not."""
    monkeypatch.chdir(tree.parent)
    names = [f"ds/{name}" for name in FILES]
    Path("l.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    Path("l.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    Path("list").write_text("\n".join(names))
    for sources in (["l.csv"], ["l.jsonl"], names):
        assert normcli.stats(sources, include="1.png", exclude="val").images == 3
    assert json.loads(run("stats", "--files-from", "list", "--include", "dog", "--json").stdout)["images"] == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_rows_of_vectors_have_no_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path := tmp_path / "v.csv").write_text("x,y\n1,2\n3,4\n")
    assert normcli.stats(path, open_options={"columns": "x,y"}, exclude="0*").images == 2
    assert "`exclude` '0*' matched nothing" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_column_of_a_table_of_files_has_the_groups(suffix: str, tree: Path) -> None:
    """As in parquet; it was taken for a regular expression."""
    rows = [{"path": f"ds/{name}", "site": "AB"[i % 2], "label": "x"} for i, name in enumerate(FILES)]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (path := tree.parent / f"t.{suffix}").write_text("\n".join(lines if suffix == "csv" else map(json.dumps, rows)))
    images = {name: group.images for name, group in normcli.stats(path, group_by="site").groups.items()}
    assert images == {"A": 3, "B": 2}
    assert list(normcli.stats(path, group_by="label").groups) == ["x"]


def test_lists_of_windows(tree: Path) -> None:
    """A mark of UTF-8 was part of the first path; of UTF-16 every path had a NUL."""
    names = [str(tree / name) for name in FILES]
    (listed := tree.parent / "l.txt").write_text("\r\n".join(names), encoding="utf-8-sig", newline="")
    assert json.loads(run_here("stats", "--files-from", listed, "--json").out)["images"] == len(FILES)
    listed.write_text("\r\n".join(names), encoding="utf-16", newline="")
    done = run_here("stats", "--files-from", listed)
    assert done.code == 2 and "is in UTF-16: save it as UTF-8" in done.err
    (tree.parent / "l.csv").write_text("path\n", encoding="utf-16")
    with pytest.raises(normcli.NoInputError, match="a table in UTF-16"):
        normcli.stats(tree.parent / "l.csv")
