"""`normcli stats`, `show` and `merge` as a shell sees them: streams, exit codes, files, signals."""

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli.summary import Summary
from tests.support.command import ROOT, Outcome, Run
from tests.support.images import encoded, photograph


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    """Wait until processes have ended, ten seconds at most."""
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and "State:\tZ" not in state(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
    return True


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "State:\tZ"


class TestResult:
    def test_a_pipe_gets_plain_aligned_text(self, run: Run, folder: Path) -> None:
        done = run("stats", folder)
        assert done.returncode == 0
        assert done.stdout.startswith(b"12 images; ")
        assert b"\x1b" not in done.stdout + done.stderr and b"mean of image stds" in done.stdout
        assert b"4 grayscale images counted as RGB" in done.stderr

    def test_json_is_the_file(self, run: Run, folder: Path, tmp_path: Path) -> None:
        done = run("stats", folder, "--json", "-o", "s.json")
        assert done.stdout == (tmp_path / "s.json").read_bytes()
        assert json.loads(done.stdout)["schema"] == "normcli/stats/2"
        assert run("stats", folder, "-o", "-").stdout == done.stdout
        assert run("show", "s.json", "--json").stdout == done.stdout
        assert run("show", "-", "--json", input=done.stdout).stdout == done.stdout
        assert run("show", "s.json").stdout == run("stats", folder).stdout

    def test_mnist_has_its_published_values(self, run: Run, shared_data: Path, tmp_path: Path) -> None:
        shutil.unpack_archive(shared_data / "mnist-test.tar", tmp_path, "tar")
        done = run("stats", "test", "--json")
        found = json.loads(done.stdout)
        assert found["images"] == 10000 and done.returncode == 0
        assert f"{found['mean'][0]:.4f} {found['std'][0]:.4f}" == "0.1325 0.3105"

    @pytest.mark.parametrize(
        ("folder", "file", "settings"),
        [("scenes", "expected.json", {"group_by": "folder"}), ("odd", "expected-odd.json", {})],
    )
    def test_sample_data_gives_the_frozen_file(self, folder: str, file: str, settings: dict[str, Any]) -> None:
        import normcli

        found = json.loads(normcli.stats(ROOT / "sample_data" / folder, **settings).to_json())
        expected = json.loads((ROOT / "sample_data" / file).read_text())
        for document in (found, expected):  # decoders may be newer than the file
            document["provenance"] = document["provenance"]["digest"]
        assert found == expected

    def test_stamp_is_recorded_only_when_asked(self, run: Run, folder: Path) -> None:
        stamp = json.loads(run("stats", folder, "--json", "--provenance").stdout)["provenance"]["stamp"]
        assert set(stamp) == {"time", "host", "command"} and stamp["command"].startswith("normcli stats")
        assert "stamp" not in json.loads(run("stats", folder, "--json").stdout)["provenance"]

    def test_groups(self, run: Run, folder: Path) -> None:
        by_folder = json.loads(run("stats", folder, "--group-by", "folder", "--json").stdout)["groups"]
        assert {name: group["images"] for name, group in by_folder.items()} == {"cat": 6, "dog": 6}
        by_suffix = json.loads(run("stats", folder, "--group-by", r"\.(\w+)$", "--json").stdout)["groups"]
        assert {name: group["images"] for name, group in by_suffix.items()} == {"jpg": 8, "png": 4}
        assert b"cat" in run("stats", folder, "--group-by", "folder").stdout

    def test_per_image_records_come_in_order(self, run: Run, folder: Path, tmp_path: Path) -> None:
        assert run("stats", folder, "--per-image", "i.jsonl", "-j", "3").returncode == 0
        records = lines(tmp_path / "i.jsonl")
        assert [r["path"] for r in records] == sorted(str(p) for p in folder.rglob("*.*"))
        means = [np.mean(r["mean"]) for r in records]
        found = json.loads(run("stats", folder, "--json").stdout)["conventions"]["mean_of_image_stds"]["mean"]
        assert abs(np.mean(means) - np.mean(found)) < 0.01

    def test_resize_and_crop_are_in_the_settings(self, run: Run, folder: Path) -> None:
        found = json.loads(run("stats", folder, "--resize", "40", "--center-crop", "32", "--json").stdout)
        assert found["pixels"] == 12 * 32 * 32
        assert (found["settings"]["resize"], found["settings"]["center_crop"]) == (40, 32)


class TestSameBits:
    def test_engines_workers_and_order_change_nothing(self, run: Run, folder: Path, tmp_path: Path) -> None:
        whole = run("stats", folder, "--json").stdout
        for arguments in (("-j", "1"), ("-j", "5"), ("--engine", "serial"), ("--engine", "processes", "-j", "2")):
            assert run("stats", folder, "--json", *arguments).stdout == whole
        paths = [str(p) for p in folder.rglob("*.*")]
        random.Random(1).shuffle(paths)
        listed = "\0".join(paths).encode()
        assert run("stats", "--files-from", "-", "-0", "--json", input=listed).stdout == whole
        assert run("stats", "--files-from", "-", "--json", input="\n".join(paths).encode()).stdout == whole

    @pytest.mark.parametrize("parts", [1, 7])
    def test_merged_parts_are_the_whole(self, run: Run, folder: Path, tmp_path: Path, parts: int) -> None:
        whole = run("stats", folder, "--json").stdout
        paths = sorted(str(p) for p in folder.rglob("*.*"))
        for i in range(parts):
            listed = "\n".join(paths[i::parts]).encode()
            assert run("stats", "--files-from", "-", "-o", f"p{i}.json", input=listed).returncode == 0
        names = [f"p{i}.json" for i in range(parts)]
        assert run("merge", *names, "--json").stdout == whole
        if parts > 1:
            rest = run("merge", *names[1:], "--json").stdout
            assert run("merge", *names, "--minus", names[0], "--json").stdout == rest


class TestBadInput:
    def test_nothing_usable(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        done = run("stats", "empty", "-o", "s.json")
        assert done.returncode == 4 and done.stderr == b"normcli: no usable image: nothing to read in empty\n"
        assert not (tmp_path / "s.json").exists()
        done = run("stats", "nowhere")
        assert done.returncode == 4
        assert done.stderr == b"normcli: no usable image (1 missing): nowhere: no such file\n"

    @pytest.mark.parametrize("to", ["npy", "stack"])
    def test_a_folder_of_arrays_names_the_option_that_reads_them(self, run: Run, folder: Path, to: str) -> None:
        assert run("apply", folder, "-o", "out", "--resize", 8, "--center-crop", 8, "--to", to).returncode == 0
        for command in (("stats", "out"), ("apply", "out", "-o", "again", "--scheme", "signed")):
            done = run(*command)
            assert done.returncode == 4 and b".npy: an array (--include '*.npy' reads" in done.stderr, done.stderr
        done = run("stats", "out", "--include", "*.npy")
        if to == "npy":
            assert done.returncode == 0
        else:  # one array of all images
            assert done.returncode == 4 and b"as SOURCE it is read as a stack" in done.stderr, done.stderr
            assert run("stats", "out/stack.npy").returncode == 0

    def test_every_bad_input_is_counted_with_a_reason(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (folder / "empty.png").touch()
        (folder / "text.jpg").write_text("not an image")
        (folder / "cut.jpg").write_bytes(encoded(photograph(), "JPEG")[:900])
        (folder / "notes.txt").write_text("hello")
        (folder / "dangling.png").symlink_to("nowhere.png")
        (folder / "loop").symlink_to(folder)
        os.mkfifo(folder / "pipe.png")
        name = os.fsencode(folder) + b"/caf\xe9.png"
        Path(os.fsdecode(name)).write_bytes(encoded(photograph()))
        (tmp_path / "list").write_text(str(tmp_path / "missing.png"))
        done = run("stats", folder, "--files-from", "list", "--failures", "f.jsonl", "--json")
        assert done.returncode == 3
        found = json.loads(done.stdout)
        assert found["images"] == 13 and not found["complete"]
        expected = {"empty": 1, "missing": 2, "not-a-file": 1, "not-an-image": 1, "truncated": 1}
        assert found["failures"] == expected and found["failed"] == 6
        assert found["skips"] == {"folder-link": 1, "not-an-image-name": 1}
        records = lines(tmp_path / "f.jsonl")
        assert len(records) == 8 and all(set(r) >= {"path", "stage", "reason", "message"} for r in records)
        first = next(record for record in records if record["stage"] != "skip")
        assert b"6 inputs failed" in done.stderr
        assert f"note: first failure: {first['path']}: {first['message']}\n".encode() in done.stderr
        image = run("stats", name, "--per-image", "i.jsonl")
        assert image.returncode == 0 and "path_b64" in lines(tmp_path / "i.jsonl")[0]

    def test_following_links_counts_each_image_once(self, run: Run, folder: Path) -> None:
        (folder / "cat" / "again").symlink_to(folder)
        done = run("stats", folder, "--follow-symlinks", "--json")
        assert json.loads(done.stdout)["images"] == 12
        assert json.loads(done.stdout)["skips"] == {"link-loop": 1}

    def test_on_error_fail_and_max_errors(self, run: Run, folder: Path) -> None:
        for i in range(3):
            (folder / f"bad{i}.png").write_text("x")
        done = run("stats", folder, "--max-failures", "0")
        assert done.returncode == 1 and b"bad0.png" in done.stderr and done.stderr.count(b"\n") == 1
        assert run("stats", folder, "--max-failures", "2").returncode == 1
        assert run("stats", folder, "--max-failures", "3").returncode == 3
        assert run("stats", folder, "--max-failures", "19%").returncode == 1
        assert run("stats", folder, "--max-failures", "20%").returncode == 3

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["stats"], b"SOURCE or --files-from is required"),
            (["stats", ".", "--color", "pink"], b"must be one of auto, rgb, gray, native"),
            (["stats", ".", "--engine", "thraeds"], b"did you mean 'threads'"),
            (["stats", ".", "--no-such"], b"--no-such"),
            (["stats", ".", "--max-value", "x"], b"--max-value: must be auto or a positive integer"),
            (["stats", ".", "--group-by", "("], b"regular expression"),
            (["stats", ".", "--max-failures", "-1"], b"--max-failures: must be a number"),
            (["stats", ".", "-j", "-1"], b"workers"),
            (["stats", ".", "-o", "no/such/s.json"], b"folder no/such does not exist"),
            (["stats", "--files-from", "nowhere"], b"files-from"),
            (["stts"], b"did you mean 'stats'"),
            (["show", "nowhere.json"], b"no such file"),
            (["merge", "nowhere.json"], b"no such file"),
        ],
    )
    def test_usage_errors_are_one_line_and_2(self, run: Run, arguments: list[str], word: bytes) -> None:
        done = run(*arguments)
        assert done.returncode == 2 and word in done.stderr and done.stdout == b""
        assert done.stderr.count(b"\n") == 1

    def test_nothing_is_overwritten_unasked(self, run: Run, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "s.json").write_text("mine")
        done = run("stats", folder, "-o", "s.json")
        assert done.returncode == 2 and (tmp_path / "s.json").read_text() == "mine"
        assert run("stats", folder, "-o", "s.json", "--force").returncode == 0
        Summary.load(tmp_path / "s.json")

    def test_failures_are_kept_when_nothing_is_usable(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_text("x")
        assert run("stats", "bad.png", "--failures", "f.jsonl").returncode == 4
        assert [r["reason"] for r in lines(tmp_path / "f.jsonl")] == ["not-an-image"]

    def test_outputs_that_cannot_be_are_refused_before_the_work(self, run: Run, folder: Path, tmp_path: Path) -> None:
        same = run("stats", folder, "--failures", "a", "--per-image", "a")
        assert same.returncode == 2 and b"one file" in same.stderr
        assert run("stats", folder, "-o", ".").returncode == 5
        assert run("stats", folder, "--failures", "-").returncode == 2

    def test_a_forgotten_null_option_fails_one_path(self, run: Run, folder: Path) -> None:
        picture = os.fsencode(folder / "cat" / "0.jpg")
        done = run("stats", "--files-from", "-", input=picture + b"\n" + picture + b"\0" + picture)
        assert done.returncode == 3 and b"Traceback" not in done.stderr and b"1 missing" in done.stderr

    def test_our_own_outputs_are_no_inputs(self, run: Run, folder: Path) -> None:
        plain = run("stats", folder, "--json").stdout
        assert run("stats", folder, "--json", "--failures", folder / "f.jsonl").stdout == plain

    def test_names_that_the_terminal_cannot_write(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "é\x1b[31m").mkdir()
        (tmp_path / "é\x1b[31m" / "ü.png").write_text("x")
        done = run("stats", ".", "--max-failures", "0", env={"PYTHONIOENCODING": "ascii"})
        assert done.returncode == 1 and b"\x1b" not in done.stderr and b"Traceback" not in done.stderr

    def test_a_damaged_statistics_file_is_one_line_and_2(self, run: Run, folder: Path, tmp_path: Path) -> None:
        run("stats", folder, "-o", "s.json")
        text = (tmp_path / "s.json").read_text()
        (tmp_path / "s.json").write_text(text[: len(text) // 2])
        for command in ("show", "merge"):
            done = run(command, "s.json")
            assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
            assert b"not a statistics file" in done.stderr

    def test_merging_other_settings_needs_force(self, run: Run, folder: Path) -> None:
        run("stats", folder, "-o", "a.json")
        run("stats", folder, "--resize", "20", "-o", "b.json")
        done = run("merge", "a.json", "b.json")
        assert done.returncode == 2 and b"resize is none and 20" in done.stderr
        done = run("merge", "a.json", "b.json", "--force", "--json")
        assert done.returncode == 3 and b"merged by force over conflicts in images, settings.resize" in done.stderr
        document = json.loads(done.stdout)
        assert document["forced"] == ["images", "settings.resize"] and not document["complete"]


class TestCitizen:
    def test_a_full_disk_is_5(self, run: Run, folder: Path) -> None:
        with Path("/dev/full").open("wb") as full:
            command = [sys.executable, "-m", "normcli", "stats", str(folder), "--json"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=120)
        assert done.returncode == 5 and done.stderr.count(b"\n") >= 1 and b"Traceback" not in done.stderr
        assert run("stats", folder, "-o", "/dev/full", "-q").returncode == 5

    def test_devices_are_written_through_not_replaced(self, run: Run, folder: Path) -> None:
        assert run("stats", folder, "-o", "/dev/null", "-q").returncode == 0
        assert Path("/dev/null").is_char_device()

    def test_stdout_by_its_name_may_be_a_pipe(self, run: Run, folder: Path) -> None:
        done = run("stats", folder, "-o", "/dev/stdout", "-q")
        assert (done.returncode, done.stderr) == (0, b"") and json.loads(done.stdout)["images"] == 12

    @pytest.mark.parametrize(
        ("redirection", "code"), [(">&-", 5), ("2>&-", 0), ("<&-", 0), ("-o s.json -q >&-", 0), ("-o s.json 2>&-", 0)]
    )
    def test_closed_streams(self, folder: Path, tmp_path: Path, redirection: str, code: int) -> None:
        command = f"{sys.executable} -m normcli stats {folder} {redirection}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
        assert done.returncode == code and b"Traceback" not in done.stderr
        assert done.stderr.count(b"normcli: cannot write: stdout is closed\n") == (code == 5)

    def test_a_process_without_memory_for_numba_counts_without_it(self, folder: Path) -> None:
        command = f"ulimit -v 350000; exec {sys.executable} -m normcli stats {folder} -j 1 --json"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, shell=True, env=environment, capture_output=True, timeout=120)
        assert done.returncode == 0 and json.loads(done.stdout)["images"] == 12 and b"Traceback" not in done.stderr

    def test_a_closed_pipe_is_quiet_and_141(self, folder: Path) -> None:
        command = [sys.executable, "-m", "normcli", "stats", str(folder), "--json", "-q"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141
        process.stderr.close()

    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.parametrize("engine", ["threads", "processes"])
    def test_signals_stop_it_without_a_trace(
        self, tmp_path: Path, sent: signal.Signals, code: int, engine: str
    ) -> None:
        picture = tmp_path / "p.png"
        picture.write_bytes(encoded(np.tile(photograph(), (8, 8, 1))))
        listing = tmp_path / "list"
        listing.write_text(f"{picture}\n" * 200_000)
        command = [
            sys.executable,
            "-m",
            "normcli",
            "stats",
            "--files-from",
            str(listing),
            "-o",
            str(tmp_path / "o.json"),
        ]
        command += ["--progress", "always", "--engine", engine]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stderr is not None
        while not re.search(rb"[1-9][0-9]* img \[", os.read(process.stderr.fileno(), 65536)):
            pass
        workers = children(process.pid)
        assert engine == "threads" or workers
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code and b"Traceback" not in errors
        assert sorted(p.name for p in tmp_path.iterdir()) == ["list", "p.png"]
        assert gone(workers)

    def test_workers_end_with_a_parent_that_is_killed(self, tmp_path: Path) -> None:
        picture = tmp_path / "p.png"
        picture.write_bytes(encoded(photograph()))
        (tmp_path / "list").write_text(f"{picture}\n" * 200_000)
        command = [sys.executable, "-m", "normcli", "stats", "--files-from", str(tmp_path / "list")]
        command += ["--progress", "always", "--engine", "processes"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stderr is not None
        while not re.search(rb"[1-9][0-9]* img \[", os.read(process.stderr.fileno(), 65536)):
            pass
        workers = children(process.pid)
        process.kill()
        process.wait()
        process.stderr.close()
        assert workers and gone(workers)

    def test_a_terminal_gets_a_table_and_bars(self, folder: Path) -> None:
        parent, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
        environment.pop("NO_COLOR", None)
        command = [sys.executable, "-m", "normcli", "stats", str(folder)]
        process = subprocess.Popen(command, stdout=child, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment)
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(parent)
        assert process.wait(60) == 0
        assert "█".encode() in shown and b"\x1b[" in shown

    def test_version_and_help(self, run: Run) -> None:
        assert run("--version").stdout == b"normcli 0.1.0\n"
        for command in ("stats", "show", "merge"):
            done = run(command, "-h")
            assert done.returncode == 0 and b"Usage: normcli" in done.stdout
        assert run("-h").returncode == 0

    def test_verbose_says_what_was_chosen_and_the_log_keeps_it(self, run: Run, folder: Path, tmp_path: Path) -> None:
        paths = b"".join(os.fsencode(p) + b"\n" for p in folder.rglob("*.jpg")) * 200
        done = run("stats", "--files-from", "-", "-v", "-j", "2", "--log-file", "log", input=paths)
        assert re.search(rb"normcli: engine: 2 (threads|processes)", done.stderr)
        assert "INFO normcli.engine: engine: 2 " in (tmp_path / "log").read_text()
        assert b"engine" not in run("stats", "--files-from", "-", "-j", "2", input=paths).stderr

    def test_environment_sets_defaults(self, run: Run, folder: Path) -> None:
        done = run("stats", folder, "--json", env={"NORMCLI_STATS_COLOR": "gray"})
        assert json.loads(done.stdout)["channels"] == ["L"]


def test_a_small_image_costs_few_calls(tmp_path: Path) -> None:
    """A gate on the path of small images that no load on the machine can disturb: calls, counted by the profiler."""
    import cProfile
    import pstats

    from normcli.options.shared import DecodeOptions, InputOptions
    from normcli.runs.stats import WorkerOptions, count_batch
    from normcli.sources import read

    for i in range(40):
        (tmp_path / f"{i:02}.jpg").write_bytes(encoded(photograph(32, 32, seed=i), "JPEG"))
    items = list(read([str(tmp_path)], InputOptions()))
    counting = WorkerOptions(reading=DecodeOptions())
    count_batch(counting, items)  # first uses
    profile = cProfile.Profile()
    profile.runcall(count_batch, counting, items)
    calls = pstats.Stats(profile).total_calls / len(items)  # type: ignore[attr-defined]
    assert calls < 66  # 56 when this was written; 64 since samples may be invalid and bands have names


def test_a_check_for_one_line_sees_two() -> None:
    assert Outcome(2, "", "normcli: a\n").is_error
    wrong = [(2, "", "normcli: a\nb\n"), (2, "rows", "normcli: a\n"), (0, "", "normcli: a\n"), (1, "", "Traceback\n")]
    assert not any(Outcome(*one).is_error for one in wrong)
