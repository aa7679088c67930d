"""Values that cannot be, and options without effect: one line that names the option, in the shell and in Python."""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import InputError, NoInputError, OutputError, UsageError
from normcli.runs.checkpoint import CheckpointLog
from normcli.tensor import normalizers
from tests.support import needs
from tests.support.command import ENVIRONMENT, Run, run_here

WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"workers": "x"}, "`workers`: must be an integer, not 'x'"),
    ({"workers": True}, "`workers`: must be an integer, not True"),
    ({"resize": 224.5}, "`resize`: must be N, HxW, longest:N or N,longest:M with positive integers, not 224.5"),
    ({"seed": "x"}, "`seed`: must be an integer, not 'x'"),
    ({"strict": "no"}, "`strict`: must be True or False, not 'no'"),
    ({"nodata": "x"}, "`nodata`: must be tag, none, or numbers such as 0 or -9999,nan, not 'x'"),
    ({"margin": np.ones(3)}, "`margin`: must be a number, not array"),
    ({"alpha": 3}, "`alpha`: must be text, not 3"),
    ({"include": 3}, "`include`: must be text, not 3"),
    ({"exclude": [3]}, "`exclude`: must be text, not 3"),
    ({"shard": (1, 2, 3)}, "`shard`: must be I/N"),
    ({"engine": "dask:"}, "`engine`: must be dask or dask:ADDRESS, not 'dask:'"),
    ({"open_options": {"layout": "x"}}, "`open_options` layout=x: must be one of"),
    ({"output": "-"}, "`output`: must be a path; - is stdout only on the command line"),
]


@pytest.mark.parametrize(("keywords", "words"), WRONG_TYPES)
def test_a_wrong_type_is_named_in_python(keywords: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(UsageError) as raised:
        normcli.stats(folder, **keywords)
    assert str(raised.value).startswith(words)


def test_numbers_of_numpy_are_numbers(folder: Path, tmp_path: Path) -> None:
    by_numpy = normcli.stats(folder, resize=np.int64(8), strict=np.bool_(False), workers=np.uint8(1))  # type: ignore[arg-type]
    assert by_numpy.to_json() == normcli.stats(folder, resize=8).to_json()
    half: Any = np.full(3, 0.5)
    result = normcli.apply(folder, tmp_path / "out", mean=half, std=half)
    assert result.constants is not None and result.constants["mean"] == [0.5] * 3


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"clip": "0,1"}, "`clip`: must be numbers"),
        ({"clip": (0, 1, 2)}, "`clip`: must be 2 numbers, not 3"),
        ({"mean": ["a"], "std": [1]}, "`mean`: must be numbers"),
        ({"to": "tar", "shard_size": "x"}, "`shard_size`: must be a number of images"),
    ],
)
def test_wrong_numbers_are_named_in_python(keywords: dict[str, Any], words: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        normcli.apply(folder, tmp_path / "out", **{"scheme": "contrast", **keywords})
    assert str(raised.value).startswith(words)


def _normalize_in_little_memory() -> None:
    with normalizers.resources(memory_limit=10_000):
        normalizers.tensor_norm(np.ones((2, 4, 100, 100)))


CALLS_THAT_FAIL: dict[str, tuple[Callable[[], Any], str]] = {
    "stats": (lambda: normcli.stats("photos", max_pixels=1), "(`max_pixels`)"),
    "stats of arrays": (lambda: normcli.stats("arrays"), "(`include` '*.npy' reads"),
    "open options": (lambda: normcli.stats("four.npy"), "(choose one: `open_options` layout=nchw)"),
    "count": (lambda: normcli.count([np.full((9, 8, 3), np.nan)]), "(`nan` skip leaves them out)"),
    "Counter": (lambda: normcli.Counter().add(np.full((9, 8, 3), np.nan)), "(`nan` skip leaves them out)"),
    "Transform": (lambda: normcli.transform("minmax")(np.ones((4, 4), np.uint8)), "`zero_std` one or eps:X maps it"),
    "activation_stats": (lambda: normcli.activation_stats("four.npy", memory_limit=10), "raise `memory_limit`"),
    "merge_states": (lambda: normcli.merge_states(["s.npz"] * 2, "m.npz"), "(`elements` N,N"),
    "normalizers": (_normalize_in_little_memory, "raise `memory_limit`"),
}


@pytest.mark.parametrize("name", CALLS_THAT_FAIL)
def test_no_error_of_python_names_an_option(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, words = CALLS_THAT_FAIL[name]
    folder.rename(tmp_path / "photos")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", np.zeros((5, 4, 3)))
    np.save(tmp_path / "four.npy", np.zeros((4, 3, 5, 4)))
    np.savez(tmp_path / "s.npz", running_mean=np.zeros(3), running_var=np.ones(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(normcli.NormcliError) as raised:
        call()
    assert words in str(raised.value) and not re.search(r"(?<![\w-])(--[a-z]|-O )", str(raised.value))


def test_failures_and_warnings_of_python_name_keywords(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Any] = []
    caplog.set_level("WARNING", "normcli")  # a command that ran in this process may have set another
    Image.new("RGB", (200, 200)).save(folder / "large.png")
    normcli.stats(folder, max_pixels=10_000, group_by="none", on_failure=failures.append)
    assert [one.message[-14:] for one in failures] == ["(`max_pixels`)"]
    assert caplog.messages == ["`group_by` 'none' matched no image"]
    caplog.clear()
    normcli.stats(folder, group_by="foldr")
    assert caplog.messages == ["`group_by` 'foldr' matched no image (did you mean 'folder'?)"]
    part = normcli.Counter(max_pixels=10).collate([np.zeros((9, 9, 3), np.uint8)])
    assert [one.message[-14:] for one in part.failures] == ["(`max_pixels`)"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stats", "--resiz", "8", "x"], "normcli stats: No such option: --resiz: did you mean --resize?"),
        # --axes is not near to --eps, nor --inverse-std to --verbose: two letters of them are the dashes
        (["tensor", "group-norm", "--axes", "1"], "No such option: --axes (see: normcli tensor group-norm --help)"),
        (["tensor", "group-norm", "--group", "1"], "No such option: --group: did you mean --groups?"),
        (["--verson"], "normcli: No such option: --verson: did you mean --version?"),
        (
            ["stats", "x", "-j", "x"],
            "normcli stats: --workers: must be an integer, not 'x' (see: normcli stats --help)",
        ),
        (["stats", "x", "--color", "gry"], "lab-tissue, not 'gry' (did you mean 'gray'?)"),
        (["stats", "x", "--progress", "sometimes"], "not 'sometimes' (see: normcli stats --help)"),
        (["diff", "a.json"], "normcli diff: Missing argument 'B' (see: normcli diff --help)"),
        (["show", "s.json", "--format", "pytorch"], "unknown format 'pytorch': did you mean 'torchvision'?"),
        (["tensor", "group-norm", "x.npy", "--groups", "x"], "--groups: must be an integer, not 'x' (see: "),
    ],
)
def test_a_wrong_option_or_value_suggests_the_nearest(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    normcli.count([np.zeros((9, 8, 3), np.uint8)]).save("s.json")
    done = run_here(*arguments)
    assert done.code == 2 and line in done.err and done.err.count("\n") == 1, done.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'workers = "x"', "workers: must be an integer, not 'x'"),
        (b'margin = "x"', "margin: must be a number, not 'x'"),
        (b'color = "gry"', "lab-tissue, not 'gry' (did you mean 'gray'?)"),
        (b"\xff", "is not valid TOML (byte 0 is not UTF-8)"),
    ],
)
def test_a_wrong_value_in_a_file_is_answered_as_on_the_command_line(
    content: bytes, problem: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "normcli.toml").write_bytes(content)
    done = run("stats", folder)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.decode().startswith(f"normcli: {tmp_path / 'normcli.toml'}: ")
    assert done.stderr.decode().endswith(f"{problem}\n"), done.stderr
    (tmp_path / "normcli.toml").write_bytes(b'\xef\xbb\xbfcolor = "gray"')  # as Windows' editors write it
    assert b"range 0-1, L\n" in run("stats", folder).stdout


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ("NORMCLI_QUIET", "--quiet: must be true or false, not 'x' (see: normcli --help)"),
        ("NORMCLI_RETRIES", "NORMCLI_RETRIES: must be an integer, 0 or more, not 'x'"),
    ],
)
def test_a_wrong_value_in_the_environment_is_named(variable: str, problem: str, run: Run) -> None:
    if variable == "NORMCLI_RETRIES":
        needs.modules("fsspec", "aiohttp")
    done = run("stats", "http://127.0.0.1:9/a.zip", env={variable: "x"})
    assert (done.returncode, done.stderr.decode()) == (2, f"normcli: {problem}\n")


def test_the_log_of_the_command_line_names_options(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run("stats", folder, "--group-by", "none", "--log-file", "log.txt")
    for text in (done.stderr.decode(), (tmp_path / "log.txt").read_text()):
        assert "--group-by 'none' matched no image" in text


def test_warnings_and_errors_of_normalizers_name_no_option() -> None:
    """Python reads them as they are; on the command line parameters become options."""
    package = Path(normcli.__file__).parent
    for path in package.rglob("*.py"):
        if path.is_relative_to(package / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_raise = isinstance(node, ast.Raise) and path.is_relative_to(package / "tensor" / "normalizers")
            text = ast.unparse(node) if is_raise else ""
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("log.warning", "log.info")):
                text = ast.unparse(node)
            assert not re.search(r"(?<![\w-])(--[a-z]|-O )", text), f"{path}:{node.lineno}"  # type: ignore[attr-defined]


def test_a_tensor_of_torch_is_no_pillow_image() -> None:
    torch = needs.module("torch")
    with pytest.raises(InputError, match=r"^a torch.Tensor, not an array \(H,W\) or \(H,W,C\): pass its numpy\(\)$"):
        normcli.transform("unit")(torch.zeros(3, 4, 4))


def test_errors_of_python_name_keywords(folder: Path, tmp_path: Path) -> None:
    normcli.apply(folder, tmp_path / "out", scheme="unit")
    with pytest.raises(UsageError, match=r"`resume` or `skip_existing` write what is missing, `force` overwrites"):
        normcli.apply(folder, tmp_path / "out", scheme="unit")
    with pytest.raises(UsageError, match="`output`: must be a path"):
        normcli.apply(folder, "-", scheme="unit")
    assert "-o" not in (normcli.stats.__doc__ or "").replace("-of", "")
    with pytest.raises(TypeError, match="sources must be a path or an iterable of paths, not None"):
        normcli.stats(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not arrays"):
        normcli.stats([np.zeros((4, 4), np.uint8)])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"too many positional arguments \(at most 1: sources\)"):
        normcli.stats(folder, folder)  # type: ignore[arg-type, call-arg]
    with pytest.raises(TypeError, match=r"not 'images' \(normcli.stats reads files\)"):
        normcli.count("images")
    unit = normcli.transform("unit")
    for samples, problem in (
        (np.zeros((2, 2), object), "samples of type object"),
        (
            np.zeros((2, 2), np.int32),
            "no value of samples other than uint8 and uint16 maps to 1 .`max_value` sets one.",
        ),
        ([["a"]], "a list, not an array or a Pillow image"),
    ):
        with pytest.raises(InputError, match=problem):
            unit(samples)
    with pytest.raises(InputError, match="a str, not an array or a Pillow image"):
        normcli.transform("unit")("image.png")
    assert normcli.source(folder / "x.npz", column="x") == str(folder / "x.npz")


ONE_IMAGE = b" cannot be combined with one image (--output - or SOURCE -)"
WITHOUT_EFFECT = [
    (["stats", "images", "--seed", "1"], b"--seed requires --sample or --margin"),
    (["stats", "images", "--confidence", "0.9"], b"--confidence requires --sample or --margin"),
    (["stats", "images", "--digits", "3"], b"--digits requires --format"),
    (["show", "s.json", "--digits", "3"], b"--digits requires --format"),
    (["show", "s.json", "--plot", "--json"], b"--plot cannot be combined with --json or --format"),
    (["show", "s.json", "--plot", "--format", "csv"], b"--plot cannot be combined with --json or --format"),
    (["show", "s.json", "--group", "x", "--plot"], b"--group cannot be combined with --plot"),
    (["show", "s.json", "--group", "x", "--report", "p.html"], b"--group cannot be combined with --report"),
    (["show", "s.json", "-f"], b"--force requires --report"),
    (["verify", "out", "--include", "*.png"], b"--include requires a SOURCE"),
    (["verify", "out", "-O", "layout=nchw"], b"-O requires a SOURCE"),
    (["verify", "out", "images"], b"out is a folder: SOURCE requires a statistics file before it"),
    (["verify", "s.json"], b"s.json: a statistics file requires SOURCE, the images that it describes"),
    *(
        (["apply", "images/cat/gray.png", "-o", "-", "--scheme", "unit", *words], words[0].encode() + ONE_IMAGE)
        for words in (["--json"], ["--dry-run"], ["--failures", "f.jsonl"], ["--max-failures", "1"], ["--resume"])
    ),
    (["stats", "images", "-O", "layout"], b"-O: must be KEY=VALUE"),
    (["stats"], b"SOURCE or --files-from is required (see: normcli stats --help)"),
    (["stats", "-"], b"-: images are not read from stdin (--files-from - reads a list of paths)"),
    (["show", "images"], b"images: a folder, not a statistics file (normcli stats makes one)"),
    (["version"], b"unknown command 'version': did you mean --version?"),
]


@pytest.mark.parametrize(("arguments", "words"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused(
    arguments: list[str], words: bytes, run: Run, folder: Path, tmp_path: Path
) -> None:
    if arguments[0] in ("show", "verify"):
        assert run("stats", folder, "-o", "s.json", "-q").returncode == 0
        assert run("apply", folder, "-o", "out", "--scheme", "unit", "-q").returncode == 0
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr == b"normcli: " + done.stderr[9:] and words in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1 and done.stdout == b""


def test_in_the_environment_it_is_for_other_commands(run: Run, folder: Path) -> None:
    assert run("stats", folder, "-q", env={"NORMCLI_SEED": "1", "NORMCLI_DIGITS": "3"}).returncode == 0


@pytest.mark.parametrize("target", ["images/cat/gray.png", "copy.png"])
def test_an_output_that_is_an_input_is_refused(target: str, run: Run, folder: Path, tmp_path: Path) -> None:
    image = tmp_path / target
    image.write_bytes((folder / "cat/gray.png").read_bytes())
    before = image.read_bytes()
    done = run("stats", folder, tmp_path / "copy.png", "-o", image, "-f")
    assert done.returncode == 2 and b"is an input of this run; choose another --output" in done.stderr, done.stderr
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("apply {folder} -o ''", "--output"),  # it was written into the current folder
        ("restore {folder} -o ''", "--output"),
        ("tensor rms-norm {folder}/x.npy -o ''", "--output"),
        ("stats {folder} -o ''", "--output"),
        ("stats {folder} --mask-dir ''", "--mask-dir"),
        ("stats {folder} --include ''", "--include"),
        ("stats ''", "SOURCE"),
        ("stats {folder} ''", "SOURCE"),
        ("merge {folder}/a.json ''", "FILE"),
        ("tensor rms-norm '' -o y.npy", "IN"),
        ("--log-file '' stats {folder}", "--log-file"),
    ],
)
def test_an_empty_value_is_refused(arguments: str, name: str, run: Run, folder: Path, tmp_path: Path) -> None:
    line = f"normcli: {name}: must not be empty (an unset shell variable?)\n"
    here = tmp_path / "here"
    here.mkdir()
    done = run(*shlex.split(arguments.format(folder=folder)), cwd=here)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", line)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda folder: normcli.apply(folder, ""), "output"),
        (lambda folder: normcli.restore(folder, ""), "output"),
        (lambda folder: normcli.stats(folder, output=""), "output"),
        (lambda folder: normcli.stats(folder, mask_dir=""), "mask_dir"),
        (lambda folder: normcli.stats([folder, ""]), "sources"),
        (lambda folder: normcli.stats(""), "sources"),
    ],
)
def test_an_empty_path_is_refused_in_python(call: Callable[[Path], Any], name: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=f"^`{name}`: must not be empty$"):
        call(folder)


def test_an_input_without_content_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for arguments in (["stats", "none"], ["apply", "none", "-o", "out", "--scheme", "unit"]):
        done = run(*arguments)
        assert (done.returncode, done.stderr) == (4, b"normcli: no usable image: nothing to read in none\n")
    with pytest.raises(NoInputError, match="no usable image: no input"):
        normcli.count([])
    with pytest.raises(NoInputError, match="no usable image: part 9 of 9 has no input"):
        normcli.stats(tmp_path / "none", shard="9/9")


def test_tensor_alone_prints_its_help(run: Run) -> None:
    done = run("tensor")
    assert done.returncode == 0 and b"group-norm" in done.stdout and done.stderr == b""


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason=needs.LINUX)


@needs_full
@pytest.mark.parametrize("arguments", [["--version"], ["list"]])
def test_a_full_stdout_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "normcli", *arguments], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
    assert (done.returncode, done.stderr) == (5, b"normcli: cannot write: no space left on device\n")


@needs_full
def test_a_log_on_a_full_disk_is_one_note(run: Run, folder: Path) -> None:
    done = run("stats", folder, "-q", "--log-file", "/dev/full", "-j", "1", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["images"] == 12
    assert done.stderr == b"note: cannot write --log-file /dev/full: no space left on device\n"


@needs_full
def test_a_checkpoint_on_a_full_disk_is_named(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json.checkpoint").symlink_to("/dev/full")
    log = CheckpointLog(tmp_path / "s.json.checkpoint")
    log.append({"a": 1})
    with pytest.raises(OutputError, match=r"cannot write .*s\.json\.checkpoint: no space left on device"):
        log.close()


def test_check_of_a_folder_is_quiet_and_names_failures(run: Run, folder: Path) -> None:
    assert run("check", folder, "--preset", "imagenet", "-q").stderr == b""
    (folder / "bad.jpg").write_bytes(b"x")
    done = run("check", folder, "--preset", "imagenet")
    counted, failures = done.stderr.splitlines()
    assert counted.startswith(b"counted " + bytes(folder) + b": 12 images, ")
    assert failures == b"1 input failed: 1 not-an-image"


@pytest.mark.skipif(sys.platform != "linux", reason=needs.LINUX)
def test_a_current_folder_that_was_removed_is_named(folder: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "normcli", "stats", "../images"]
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.join(words)}"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"normcli: the current folder was removed: change to another one\n"


@pytest.mark.parametrize("arguments", ["list", "stats images -q", "tensor batch-norm x.npy --layout NCHW -o y.npy -q"])
def test_without_docstrings_only_the_help_is_missing(arguments: str, run: Run, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3, 4, 4), np.float32))
    done = run(*arguments.split(), env={"PYTHONOPTIMIZE": "2"})
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_server_that_connects_at_once_and_is_not_there(run: Run) -> None:
    needs.module("fsspec")
    done = run("stats", "ftp://127.0.0.1:9/images")
    assert done.returncode == 6 and b"ftp://127.0.0.1:9 does not answer: " in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1
