"""The command of a finished run again, with --resume: it says so, ends with 0 and changes no byte."""

import os
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import UsageError
from normcli.runs.stats import checkpoint_path
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph
from tests.support.outputs import tree


@pytest.mark.parametrize(
    "options", [[], ["--group-by", "folder"], ["--max-pixels", "100000"], ["--provenance"]], ids=" ".join
)
def test_stats_again(options: list[str], run: Run, folder: Path, tmp_path: Path) -> None:
    command = ["stats", "images", "-o", "s.json", "--resume", *options]
    assert run(*command).returncode == 0
    before = (tmp_path / "s.json").read_bytes()
    status = (tmp_path / "s.json").stat()
    done = run(*command)
    assert done.returncode == 0 and b"already complete: s.json" in done.stderr, done.stderr
    assert (tmp_path / "s.json").read_bytes() == before and (tmp_path / "s.json").stat() == status
    assert not checkpoint_path(tmp_path / "s.json").exists()


def test_stats_again_with_failures_exits_3_again(run: Run, folder: Path) -> None:
    (folder / "cut.png").write_bytes(b"\x89PNG")
    command = ["stats", "images", "-o", "s.json", "--resume"]
    assert run(*command).returncode == 3
    done = run(*command)
    assert done.returncode == 3 and b"already complete: s.json" in done.stderr, done.stderr


def other_image(folder: Path) -> None:
    (folder / "cat/0.jpg").write_bytes((folder / "dog/1.jpg").read_bytes())
    os.utime(folder / "cat/0.jpg", (0, 0))


def renamed_class(folder: Path) -> None:
    (folder / "cat/0.jpg").rename(folder / "dog/9.jpg")


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (other_image, {}),
        (lambda folder: (folder / "cat/0.jpg").unlink(), {}),
        (lambda folder: (folder / "new.png").write_bytes(encoded(photograph(8, 8))), {}),
        (lambda folder: (folder / "new.png").write_bytes(b"no image"), {}),
        (renamed_class, {"group_by": "folder"}),
    ],
    ids=["other bytes, old time", "fewer", "more", "a failure more", "another class"],
)
def test_other_inputs_are_not_complete(change: Any, options: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    normcli.stats(folder, output=tmp_path / "s.json", resume=True, **options)
    before = (tmp_path / "s.json").read_bytes()
    change(folder)
    with pytest.raises(UsageError, match="exists, and is of other inputs"):
        normcli.stats(folder, output=tmp_path / "s.json", resume=True, **options)
    assert (tmp_path / "s.json").read_bytes() == before
    normcli.stats(folder, output=tmp_path / "s.json", resume=True, force=True, **options)
    assert (tmp_path / "s.json").read_bytes() != before


def test_other_settings_are_not_complete(folder: Path, tmp_path: Path) -> None:
    normcli.stats(folder, output=tmp_path / "s.json", resume=True)
    with pytest.raises(UsageError, match="exists, with other settings: color was auto, now gray"):
        normcli.stats(folder, output=tmp_path / "s.json", resume=True, color="gray")
    with pytest.raises(UsageError, match=r"exists \(`force`"):
        normcli.stats(folder, output=tmp_path / "s.json")


def test_without_a_decoder_is_the_reading_of_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normcli.stats(folder, output=tmp_path / "s.json", resume=True)
    monkeypatch.setattr("normcli.images.decode", None)
    counts: list[int] = []
    normcli.stats(folder, output=tmp_path / "s.json", resume=True, engine="serial", on_resume=counts.append)
    assert counts == [12]


@pytest.mark.parametrize("to", ["npy", "stack", "png", "tar", "parquet"])
def test_apply_again(to: str, run: Run, folder: Path, tmp_path: Path) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    command = ["apply", "images", "-o", "out", "-s", "unit", "--to", to, "--color", "rgb", "--resize", "8"]
    command += ["--center-crop", "8", "--resume"]
    assert run(*command).returncode == 0
    before = tree(tmp_path / "out")
    done = run(*command)
    assert done.returncode == 0 and b"already complete: out" in done.stderr, done.stderr
    assert tree(tmp_path / "out") == before


def test_a_failure_that_passes_is_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO for one file, in a run that breaks off: with --resume the file is read again."""
    from normcli.storage import files

    true = files.open_regular

    def fails(path: Any) -> Any:
        if str(path).endswith("cat/1.jpg"):
            raise files.read_error(path, OSError(5, "Input/output error"))
        if str(path).endswith("dog/3.jpg"):
            raise KeyboardInterrupt
        return true(path)

    fresh = normcli.stats(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "open_regular", fails)
        normcli.stats(folder, output=tmp_path / "s.json", resume=True, engine="serial")
    assert normcli.stats(folder, output=tmp_path / "s.json", resume=True).to_json() == fresh.to_json()


@pytest.mark.parametrize("to", ["npy", "stack", "tar", "parquet"])
def test_a_failure_that_passes_is_tried_again_by_apply(
    to: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    from normcli.storage import files

    true = files.open_regular

    def fails(path: Any) -> Any:
        if str(path).endswith("cat/1.jpg"):
            raise files.read_error(path, OSError(5, "Input/output error"))
        return true(path)

    options: dict[str, Any] = {"scheme": "unit", "to": to, "color": "rgb", "resize": 8, "center_crop": 8}
    options |= {"shard_size": 2} if to in ("tar", "parquet") else {}
    normcli.apply(folder, tmp_path / "plain", **options)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_regular", fails)
        assert normcli.apply(folder, tmp_path / "out", **options).failed == {"unreadable": 1}
    normcli.apply(folder, tmp_path / "out", resume=True, **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
