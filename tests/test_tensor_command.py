"""`normcli tensor`, as a process: files in, files out, state carried, bad input refused and nothing written."""

import io
import json
import os
import pty
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.cli import main as cli
from normcli.errors import OutputError, TensorError
from normcli.storage import npy as arrays
from normcli.tensor import catalog, safetensors
from normcli.tensor import files as tensor_files
from normcli.tensor.job import Job, run_job
from normcli.tensor.normalizers import NORMALIZERS
from tests.support import needs
from tests.support.command import ROOT, Run

Array = np.ndarray[Any, Any]

NCHW = ("--layout", "NCHW")


def activations(seed: int = 0, shape: tuple[int, ...] = (6, 4, 5, 3), dtype: Any = np.float32) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * 3 + 10).astype(dtype)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with four batches, a weight and a cotangent."""
    for i in range(4):
        np.save(tmp_path / f"b{i}.npy", activations(i))
    np.save(tmp_path / "w.npy", np.array([1.0, 2, 3, 4]))
    np.save(tmp_path / "dy.npy", activations(9))
    return tmp_path


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """Assert one line on stderr with these words, that exit code, and nothing on stdout."""
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text, text


def test_a_result_is_what_the_function_gives(run: Run, here: Path) -> None:
    done = run("tensor", "group-norm", "b0.npy", *NCHW, "--groups", 2, "--weight", "w.npy", "-o", "y.npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"wrote y.npy: float32 (6, 4, 5, 3)\n")
    wanted = nn.group_norm(activations(), layout="NCHW", groups=2, weight=np.load(here / "w.npy"))
    np.testing.assert_array_equal(np.load(here / "y.npy"), wanted)


def test_every_normalizer_is_a_command_and_is_listed(run: Run) -> None:
    from typer import Context
    from typer.core import TyperGroup
    from typer.main import get_command

    from normcli.cli.tensor import app

    group = get_command(app)
    assert isinstance(group, TyperGroup)
    listed = [row["name"] for row in json.loads(run("list", "normalizers", "--json").stdout)["normalizers"]]
    assert sorted(listed) == [name.replace("_", "-") for name in sorted(NORMALIZERS)]
    for name in listed:
        command = group.get_command(Context(group), name)
        assert command is not None
        options = {option for parameter in command.params for option in parameter.opts}
        one = NORMALIZERS[name.replace("-", "_")]
        wanted = {f"--{key.replace('_', '-')}" for key in (*one.settings, *one.tensors[1:])}
        assert wanted <= options
        assert ("--grad" in options) == (one.vjp is not None)
        assert ("--save-state" in options) == bool(one.state)


def test_commands_are_grouped_by_family(run: Run) -> None:
    rows = catalog.rows()
    assert {name.replace("-", "_") for name, _, _ in rows} == set(NORMALIZERS)
    assert {family for _, family, _ in rows} == set(catalog.FAMILIES)
    text = run("tensor", "--help", env={"COLUMNS": "100"}).stdout.decode()
    headings = [text.index(f"\n{heading}:\n") for heading in catalog.FAMILIES.values()]
    assert headings == sorted(headings)
    for heading, name in zip(headings, ("batch-renorm", "group-norm", "weight-norm", "evo-norm"), strict=True):
        assert text.index(f" {name} ", heading) < min([h for h in headings if h > heading], default=len(text))


def test_a_layout_is_accepted_in_either_case(run: Run, here: Path) -> None:
    for layout in ("NCHW", "nchw"):
        for name in (
            ("group-norm", "--groups", 2),
            ("batch-norm", "--recompute-state", "--save-state", f"{layout}.npz"),
        ):
            done = run("tensor", name[0], "b0.npy", "--layout", layout, *name[1:], "-o", f"{layout}-{name[0]}.npy")
            assert done.returncode == 0, done.stderr
    for pair in (("NCHW-group-norm.npy", "nchw-group-norm.npy"), ("NCHW.npz", "nchw.npz")):
        assert (here / pair[0]).read_bytes() == (here / pair[1]).read_bytes()
    upper, lower = (run("tensor", "compare", "b0.npy", "--layout", layout) for layout in ("NHWC", "nhwc"))
    assert (upper.returncode, upper.stdout) == (0, lower.stdout)


def test_help_shows_formula_paper_and_defaults(run: Run) -> None:
    text = " ".join(run("tensor", "batch-norm", "--help", env={"COLUMNS": "200"}).stdout.decode().split())
    for words in ("sqrt(var + eps)", "arXiv 1502.03167", "[default: 0.1]", "unbiased|biased", "torch|keras|flax"):
        assert words in text


def test_building_the_commands_imports_no_numba() -> None:
    code = (
        "import sys; from normcli.cli.tensor import app; from typer.main import get_command;"
        "g = get_command(app); [g.get_command(None, n) for n in g.list_commands(None)];"
        "print([m for m in ('numba', 'torch', 'ml_dtypes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_documentation_is_up_to_date() -> None:
    made = (ROOT / "docs" / "normalizers.md").read_text(encoding="utf-8")
    assert made == catalog.document(), "run: python -m normcli.tensor.catalog docs/normalizers.md"


def test_two_half_sequences_equal_one_bit_for_bit(run: Run, here: Path) -> None:
    whole = run("tensor", "batch-norm", *(f"b{i}.npy" for i in range(4)), *NCHW, "-o", "a/", "--save-state", "a.npz")
    assert whole.returncode == 0, whole.stderr
    assert run("tensor", "batch-norm", "b0.npy", "b1.npy", *NCHW, "-o", "b", "--save-state", "h.npz").returncode == 0
    second = ("b2.npy", "b3.npy", *NCHW, "--state", "h.npz", "-o", "b", "--save-state", "b.npz", "-f")
    assert run("tensor", "batch-norm", *second).returncode == 0
    assert (here / "a.npz").read_bytes() == (here / "b.npz").read_bytes()
    for i in range(4):
        assert (here / f"a/b{i}.npy").read_bytes() == (here / f"b/b{i}.npy").read_bytes()
    with np.load(here / "a.npz") as state:
        assert int(state["num_batches_tracked"]) == 4
        assert state["num_batches_tracked"].dtype == np.int64
        assert (str(state["normalizer"]), str(state["preset"])) == ("batch_norm", "torch")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_a_torch_state_loads_in_torch_and_gives_the_same_eval_output(run: Run, here: Path, suffix: str) -> None:
    torch = needs.module("torch")
    state = f"bn{suffix}"
    made = run("tensor", "batch-norm", "b0.npy", "b1.npy", *NCHW, "--preset", "torch", "--save-state", state)
    assert made.returncode == 0, made.stderr
    if suffix == ".pt":
        loaded = torch.load(here / state, weights_only=True)
    else:
        loaded = {
            k: torch.tensor(v) for k, v in tensor_files.read_state(str(here / state)).items() if v.dtype.kind != "U"
        }
    layer = torch.nn.BatchNorm2d(4, affine=False, dtype=torch.float64).eval()
    layer.load_state_dict(loaded)
    done = run(
        *("tensor", "batch-norm", "b2.npy", *NCHW, "--mode", "eval", "--state", state),
        *("-o", "y.npy", "--dtype", "float64"),
    )
    assert done.returncode == 0, done.stderr
    wanted = layer(torch.tensor(activations(2), dtype=torch.float64)).numpy()
    np.testing.assert_allclose(np.load(here / "y.npy"), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalizer", ["batch-norm", "batch-renorm"])
def test_recomputed_statistics_are_those_of_one_batch(run: Run, here: Path, normalizer: str) -> None:
    files = [f"b{i}.npy" for i in range(4)]
    done = run("tensor", normalizer, *files, *NCHW, "--recompute-state", "--save-state", "exact.npz")
    assert done.returncode == 0, done.stderr
    every = np.concatenate([activations(i) for i in range(4)]).astype(np.float64)
    var = every.var((0, 2, 3))
    with np.load(here / "exact.npz") as state:
        np.testing.assert_allclose(state["running_mean"], every.mean((0, 2, 3)), rtol=1e-13)
        if normalizer == "batch-norm":
            m = every.size // 4
            np.testing.assert_allclose(state["running_var"], var * m / (m - 1), rtol=1e-12)
        else:
            np.testing.assert_allclose(state["running_std"], np.sqrt(var + 1e-3), rtol=1e-12)
    evaluated = run("tensor", normalizer, *files, *NCHW, "--mode", "eval", "--recompute-state", "-o", "e/")
    assert evaluated.returncode == 0, evaluated.stderr
    y = np.concatenate([np.load(here / "e" / name) for name in files])
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, rtol=2e-3)


def test_presets_change_what_was_not_said(run: Run, here: Path) -> None:
    assert run("tensor", "batch-norm", "b0.npy", *NCHW, "--preset", "keras", "--save-state", "k.npz").returncode == 0
    with np.load(here / "k.npz") as state:
        x = activations().astype(np.float64)
        np.testing.assert_allclose(state["running_var"], 0.99 + 0.01 * x.var((0, 2, 3)))
        assert str(state["preset"]) == "keras"
    done = run("tensor", "batch-norm", "b0.npy", *NCHW, "--state", "k.npz", "--mode", "eval", "-o", "y.npy")
    assert done.returncode == 0, done.stderr
    with np.load(here / "k.npz") as state:
        stats = {k: state[k] for k in ("running_mean", "running_var")}
    wanted = nn.batch_norm(activations(), layout="NCHW", mode="eval", state=stats, eps=1e-3).y
    np.testing.assert_array_equal(np.load(here / "y.npy"), wanted)
    other = run("tensor", "batch-norm", "b0.npy", *NCHW, "--state", "k.npz", "--preset", "torch", "-o", "z.npy")
    refused(other, 2, "made with --preset keras, not torch")
    last = run("tensor", "weight-norm", "b0.npy", "--preset", "flax", "-o", "w3.npy")
    assert last.returncode == 0, last.stderr
    np.testing.assert_array_equal(np.load(here / "w3.npy"), nn.weight_norm(activations(), dim=3))


def test_gradients(run: Run, here: Path) -> None:
    done = run("tensor", "batch-norm", "b0.npy", *NCHW, "--weight", "w.npy", "--grad", "dy.npy", "-o", "g.npz")
    assert done.returncode == 0, done.stderr
    wanted = nn.batch_norm_vjp(activations(), activations(9), layout="NCHW", weight=np.load(here / "w.npy"))
    with np.load(here / "g.npz") as found:
        assert set(found.files) == {"dx", "dweight", "dbias"}
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key], value)
    alone = run("tensor", "lp-normalize", "b0.npy", *NCHW, "--grad", "dy.npy", "-o", "dx.npy")
    assert alone.returncode == 0, alone.stderr
    np.testing.assert_array_equal(
        np.load(here / "dx.npy"), nn.lp_normalize_vjp(activations(), activations(9), layout="NCHW")["dx"]
    )
    cosine = run("tensor", "cosine-norm", "w2.npy", "--weight", "w2.npy", "--grad", "k.npy", "-o", "c.npz")
    refused(cosine, 1, "w2.npy: no such file")


def test_pipes(run: Run, here: Path) -> None:
    first = run("tensor", "group-norm", "-", *NCHW, "--groups", 2, "-o", "-", input=(here / "b0.npy").read_bytes())
    assert (first.returncode, first.stderr) == (0, b"")
    second = run("tensor", "rms-norm", "-", "--axes=-1", "-o", "y.npy", input=first.stdout)
    assert second.returncode == 0, second.stderr
    wanted = nn.rms_norm(nn.group_norm(activations(), layout="NCHW", groups=2), axes="-1")
    np.testing.assert_array_equal(np.load(here / "y.npy"), wanted)
    cut = run("tensor", "rms-norm", "-", "--axes=-1", "-o", "z.npy", input=first.stdout[:-8])
    refused(cut, 1, "stdin: the header claims 1440 bytes, 1432 arrived")
    assert not (here / "z.npy").exists()


def test_binary_output_is_refused_on_a_terminal(here: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "normcli", "tensor", "rms-norm", "b0.npy", "--axes=-1", "-o", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, cwd=here, env=environment, timeout=60)
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert b"stdout is a terminal" in done.stderr


def test_a_closed_or_full_stdout(run: Run, here: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "normcli", "tensor", "rms-norm", "b0.npy", "--axes=-1", "-o", "-"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=here, env=environment, timeout=60)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr


def test_containers_keep_their_keys(run: Run, here: Path) -> None:
    np.savez(here / "in.npz", a=activations(0), b=activations(1))
    done = run("tensor", "batch-norm", "in.npz", *NCHW, "-o", "out.npz", "--save-state", "s.npz")
    assert done.returncode == 0, done.stderr
    first = nn.batch_norm(activations(0), layout="NCHW")
    second = nn.batch_norm(activations(1), layout="NCHW", state=first.state)
    with np.load(here / "out.npz") as made, np.load(here / "s.npz") as state:
        assert made.files == ["a", "b"]
        np.testing.assert_array_equal(made["a"], first.y)
        np.testing.assert_array_equal(made["b"], second.y)
        np.testing.assert_array_equal(state["running_var"], second.state["running_var"])
    one = run("tensor", "batch-norm", "in.npz:b", *NCHW, "-o", "b.safetensors")
    assert one.returncode == 0, one.stderr
    tensors, _ = safetensors.read(here / "b.safetensors")
    stored = tensors["b"]
    assert isinstance(stored, arrays.StoredTensor)
    with stored:
        np.testing.assert_array_equal(stored[0:6], nn.batch_norm(activations(1), layout="NCHW").y)
    refused(run("tensor", "batch-norm", "in.npz:c", *NCHW, "-o", "c.npy"), 1, "no key 'c'; it has a, b")
    refused(run("tensor", "batch-norm", "in.npz", *NCHW, "-o", "c.npy"), 2, "takes one tensor, got a, b")


def test_safetensors_are_the_librarys(run: Run, here: Path) -> None:
    library = needs.module("safetensors.numpy")
    library.save_file({"x": activations(0), "n": np.arange(7)}, here / "x.safetensors")
    done = run("tensor", "instance-norm", "x.safetensors:x", *NCHW, "-o", "y.safetensors")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        library.load_file(here / "y.safetensors")["x"], nn.instance_norm(activations(0), layout="NCHW")
    )
    half = run("tensor", "instance-norm", "b0.npy", *NCHW, "-o", "h.safetensors", "--dtype", "bfloat16")
    assert half.returncode == 0, half.stderr
    again = run("tensor", "instance-norm", "h.safetensors", *NCHW, "-o", "h2.safetensors")
    assert again.returncode == 0, again.stderr
    tensors, _ = safetensors.read(here / "h2.safetensors")
    stored = tensors["y"]
    assert isinstance(stored, arrays.StoredTensor)
    with stored:
        assert stored.dtype.name == "bfloat16"
    refused(run("tensor", "instance-norm", "h.safetensors", *NCHW, "-o", "h.npy"), 1, "no bfloat16")
    assert not (here / "h.npy").exists()


def test_torch_files(run: Run, here: Path) -> None:
    torch = needs.module("torch")
    torch.save(torch.tensor(activations(0)).bfloat16(), here / "x.pt")
    torch.save({"a": torch.tensor(activations(0)), "w": torch.ones(4)}, here / "d.pt")
    done = run("tensor", "instance-norm", "x.pt", *NCHW, "-o", "y.pt")
    assert done.returncode == 0, done.stderr
    made = torch.load(here / "y.pt", weights_only=True)
    assert made.dtype == torch.bfloat16
    done = run("tensor", "instance-norm", "d.pt:a", *NCHW, "--weight", "d.pt:w", "-o", "z.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(here / "z.npy"), nn.instance_norm(activations(0), layout="NCHW"))
    torch.save({"a": Path("x")}, here / "evil.pt")
    refused(run("tensor", "instance-norm", "evil.pt", *NCHW, "-o", "e.npy"), 1, "only weights are read, never objects")
    (here / "cut.pt").write_bytes((here / "x.pt").read_bytes()[:300])
    refused(run("tensor", "instance-norm", "cut.pt", *NCHW, "-o", "e.npy"), 1, "not a valid .pt file")


BAD = [
    (("group-norm", "b0.npy", *NCHW, "--groups", 3, "-o", "y.npy"), 1, "C = 4, groups = 3"),
    (("group-norm", "b0.npy", *NCHW, "-o", "y.npy"), 2, "group_norm requires --groups"),
    (("batch-norm", "b0.npy", "-o", "y.npy"), 2, "NCHW or NHWC: choose one with --layout"),
    (("batch-norm", "b0.npy", "--layout", "NCL", "-o", "y.npy"), 1, "b0.npy: batch_norm: layout NCL requires rank 3"),
    (("batch-norm", "b0.npy", *NCHW, "--mode", "eval", "-o", "y.npy"), 1, "eval mode requires running statistics"),
    (("batch-norm", "b0.npy", *NCHW, "--momentum", "0.1", "-o", "y.npy"), 2, "--momentum is ambiguous"),
    (("batch-norm", "b0.npy", *NCHW, "--eps=-1", "-o", "y.npy"), 2, "eps must be 0 or more, got -1"),
    (("batch-norm", "b0.npy", *NCHW, "--weight", "b0.npy", "-o", "y.npy"), 1, "weight must have shape (4,)"),
    (("batch-norm", "b0.npy", *NCHW, "--preset", "caffe", "-o", "y.npy"), 2, "unknown preset of batch_norm 'caffe'"),
    (("batch-norm", "b0.npy", *NCHW), 2, "nothing to write"),
    (("batch-norm", "b0.npy", *NCHW, "-o", "b1.npy"), 2, "b1.npy: exists (--force overwrites it)"),
    (("batch-norm", "b0.npy", *NCHW, "-o", "y.txt"), 2, "got .txt"),
    (("batch-norm", "b0.npy", *NCHW, "-o", "no/such/y.npy"), 2, "no/such/y.npy: folder no/such does not exist"),
    (("batch-norm", "b0.npy", "b1.npy", *NCHW, "-o", "y.npy"), 2, "need a folder"),
    (("batch-norm", "b0.npy", "./b0.npy", *NCHW, "-o", "y/"), 2, "two inputs would both be written"),
    (("batch-norm", "gone.npy", *NCHW, "-o", "y.npy"), 1, "gone.npy: no such file"),
    (("batch-norm", ".", *NCHW, "-o", "y.npy"), 2, "6 inputs need a folder as output"),
    (("batch-norm", "b0.npy", *NCHW, "--state", "w.npy", "-o", "y.npy"), 1, "lacks running_mean, running_var"),
    (("batch-norm", "b0.npy", *NCHW, "--save-state", "s.npy"), 2, "a state has several tensors"),
    (("batch-norm", "b0.npy", *NCHW, "--mode", "eval", "--save-state", "s.npz"), 2, "eval mode changes no state"),
    (("batch-norm", "b0.npy", *NCHW, "--grad", "dy.npy", "-o", "y.npy"), 2, "dx, dweight, dbias"),
    (("batch-norm", "b0.npy", *NCHW, "--grad", "dy.npy", "--update-rate", 0.5, "-o", "y.npz"), 2, "--update-rate"),
    (("layer-norm", "b0.npy", *NCHW, "-o", "y.npy"), 2, "--axes token"),
    (("spectral-norm", "b0.npy", "--recompute-state"), 2, "--recompute-state"),
    (("batch-norm", "b0.npy", *NCHW, "--recompute-state", "-o", "y.npy"), 2, "has no effect here"),
    (("adaptive-instance-norm", "b0.npy", *NCHW, "-o", "y.npy"), 2, "requires --style FILE"),
    (("grup-norm", "b0.npy"), 2, "did you mean 'group-norm'"),
    (("batch-norm", "b0.npy", *NCHW, "--memory-limit", "lots", "-o", "y.npy"), 2, "such as 500MB or 2GiB"),
    (("rms-norm", "b0.npy", "--axes=-1", "--memory-limit", "100", "-o", "y.npy"), 1, "raise --memory-limit"),
    (("compare", "b0.npy", *NCHW, "--with", "batch_nrm"), 2, "did you mean 'batch_norm'"),
    (("compare", "b0.npy", *NCHW, "--with", "group_norm:size=3"), 2, "not a setting of group_norm"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_nothing_is_written(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[Any],
    code: int,
    words: str,
) -> None:
    before = listing(here)
    monkeypatch.chdir(here)
    found = cli.run(["tensor", *map(str, arguments)])  # in this process: 30 of them would take a minute
    told = capfd.readouterr()
    assert (found, told.out) == (code, "")
    assert words in told.err
    assert told.err.count("\n") == 1
    assert listing(here) == before


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def damaged() -> Any:
    sound = npy(activations())
    lying = sound.replace(b"(6, 4, 5, 3)", b"(9, 4, 5, 3)")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", sound.replace(b"(6, 4, 5, 3)", b"(6, 4, 5, 9)"))
    broken = bytearray(buffer.getvalue())
    plain = io.BytesIO()
    np.savez(plain, x=activations())
    flipped = bytearray(plain.getvalue())
    flipped[700] ^= 0xFF
    header = b'{"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    prefix = len(header).to_bytes(8, "little")
    yield "cut.npy", sound[:-10]
    yield "long.npy", sound + b"\0"
    yield "lying.npy", lying
    yield "huge.npy", sound.replace(b"(6, 4, 5, 3)", b"(6, 4, 9**9)")
    yield "head.npy", sound[:20]
    yield "empty.npy", b""
    yield "text.npy", b"1 2 3"
    yield "objects.npy", npy(np.array([[1, None]], dtype=object))
    yield "records.npy", npy(np.zeros(3, [("a", "f4")]))
    yield "lying.npz", bytes(broken)
    yield "flipped.npz", bytes(flipped)
    yield "text.npz", b"PK\3\4 and no more"
    yield "cut.safetensors", prefix + header + bytes(20)
    yield "hole.safetensors", prefix + header.replace(b"[0,24]", b"[4,28]") + bytes(28)
    yield "lying.safetensors", prefix + header.replace(b"[2,3]", b"[2,4]") + bytes(24)
    yield "huge.safetensors", (1 << 40).to_bytes(8, "little") + header
    yield "type.safetensors", prefix + header.replace(b"F32", b"F99") + bytes(24)
    yield "json.safetensors", prefix + header[:-1] + b"," + bytes(24)
    yield "minus.safetensors", prefix + header.replace(b"[0,24]", b"[-8,16]")[:-1] + bytes(24)


@pytest.mark.parametrize(("name", "data"), list(damaged()), ids=lambda v: v if isinstance(v, str) else "")
def test_damaged_files_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TensorError) as caught:
        run_job(Job(normalizer="tensor_norm", inputs=[str(path)], output=str(tmp_path / "y.npy")))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == [name]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", activations())

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for name in ("y.npy", "y.safetensors"):
        with pytest.raises(OutputError, match="no space left on device"):
            run_job(Job(normalizer="tensor_norm", inputs=[str(tmp_path / "x.npy")], output=str(tmp_path / name)))
    assert listing(tmp_path) == ["x.npy"]


def test_large_files_go_by_blocks_and_give_the_same_bits(tmp_path: Path, run: Run) -> None:
    x = activations(3, (48, 8, 96, 96))  # 14 MB, 48 blocks
    np.save(tmp_path / "x.npy", x)
    for name, wanted in (
        (("batch-norm", *NCHW), nn.batch_norm(x, layout="NCHW").y),
        (("layer-norm", *NCHW, "--axes", "image"), nn.layer_norm(x, layout="NCHW", axes="image")),
        (("iter-norm", *NCHW), nn.iter_norm(x, layout="NCHW").y),
        (("tensor-norm",), nn.tensor_norm(x)),
        (("tensor-norm", "--p", "3"), nn.tensor_norm(x, p=3)),
    ):
        done = run("tensor", *name, "x.npy", "-o", "y.npy", "-f", "--memory-limit", "14M")
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        nn.tensor_norm(x), (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), rtol=2e-7, atol=1e-9
    )
    spanning = ("tensor", "layer-norm", "x.npy", "--axes", "0,1,2,3", "-o", "z.npy", "--memory-limit")
    refused(run(*spanning, "14M"), 1, "raise --memory-limit")
    assert run(*spanning, "60M").returncode == 0  # 4 times the tensor, not 14
    # a Fortran-ordered file holds the same tensor
    np.save(tmp_path / "f.npy", np.asfortranarray(x[:4]))
    refused(run("tensor", "rms-norm", "f.npy", "--axes=1", "-o", "q.npy", "--memory-limit", "1M"), 1, "in C order")
    assert run("tensor", "instance-norm", "f.npy", *NCHW, "-o", "g.npy").returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), nn.instance_norm(x[:4], layout="NCHW"))


GRADIENTS: list[tuple[str, ...]] = [
    ("batch-norm", *NCHW),
    ("batch-renorm", *NCHW),
    ("lp-batch-norm", *NCHW),
    ("group-norm", *NCHW, "--groups", "2"),
    ("layer-norm", *NCHW, "--axes", "image"),
    ("rms-norm", "--axes=-1"),
    ("lp-normalize", *NCHW),
    ("local-response-norm", *NCHW),
    ("dynamic-tanh", *NCHW),
]


@pytest.mark.parametrize("arguments", GRADIENTS, ids=[a[0] for a in GRADIENTS])
def test_gradients_of_large_files_go_by_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    x, dy = activations(3, (48, 8, 96, 96)), activations(4, (48, 8, 96, 96))  # 14 MB each
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "dy.npy", dy)
    monkeypatch.chdir(tmp_path)
    one = nn.find(arguments[0])
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    settings: dict[str, Any] = {"layout": "NCHW"} if "--layout" in options else {"axes": "-1"}
    settings |= {"axes": "image"} if "--axes" in options else {"groups": 2} if "--groups" in options else {}
    assert one.vjp is not None
    wanted = one.vjp(x, dy, **settings)
    assert tuple(wanted) == one.gradients
    for name in ("g.npz", "g.safetensors"):
        command = ["tensor", *arguments, "x.npy", "--grad", "dy.npy", "-o", name, "--memory-limit", "24M"]
        assert cli.run(command) == 0
        with tensor_files.open_tensors(name) as made:
            assert set(made) in (set(wanted), {"y"})
            for key, value in wanted.items():
                np.testing.assert_array_equal(tensor_files.read_array(made[key if key in made else "y"]), value)
    assert cli.run(["tensor", *arguments, "x.npy", "--grad", "dy.npy", "-o", "h.npz", "--memory-limit", "5M"]) == 1
    assert listing(tmp_path) == ["dy.npy", "g.npz", "g.safetensors", "x.npy"]


def test_several_large_results_fit_a_memory_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {key: activations(i, (24, 8, 96, 96)) for i, key in enumerate("abc")}  # 7 MB each
    safetensors.write(tmp_path / "in.safetensors", tensors)
    monkeypatch.chdir(tmp_path)
    for name in ("y.safetensors", "y.npz"):
        assert cli.run(["tensor", "rms-norm", "in.safetensors", "--axes=-1", "-o", name, "--memory-limit", "6M"]) == 0
        with tensor_files.open_tensors(name) as made:
            for key, x in tensors.items():
                np.testing.assert_array_equal(tensor_files.read_array(made[key]), nn.rms_norm(x, axes="-1"))
    state = ["batch-norm", "in.safetensors", *NCHW, "--save-state", "s.npz", "--memory-limit", "6M"]
    assert cli.run(["tensor", *state]) == 0  # results that no file takes are not kept
    assert listing(tmp_path) == ["in.safetensors", "s.npz", "y.npz", "y.safetensors"]


def test_compare_shows_each_and_the_gap_of_train_and_eval(run: Run, here: Path) -> None:
    run("tensor", "batch-norm", "b0.npy", *NCHW, "--save-state", "s.npz")
    asked = ("compare", "b1.npy", *NCHW, "--with", "batch_norm,batch_renorm,layer_norm,group_norm:groups=2")
    done = run("tensor", *asked, "--state", "s.npz", env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    names = ["input", "batch_norm train", "batch_norm eval", "batch_renorm", "batch_renorm", "layer_norm", "group_norm"]
    assert [line.startswith(name) for line, name in zip(lines[1:], names, strict=True)] == [True] * 7
    rows = json.loads(run("tensor", *asked, "--state", "s.npz", "--json").stdout)["rows"]
    y = nn.batch_norm(activations(1), layout="NCHW").y.astype(np.float64)
    assert rows[1]["mean"] == pytest.approx(y.mean())
    assert rows[1]["std"] == pytest.approx(y.std())
    assert sum(rows[1]["histogram"]) == y.size
    with np.load(here / "s.npz") as state:
        stats = {k: state[k] for k in ("running_mean", "running_var")}
    other = nn.batch_norm(activations(1), layout="NCHW", mode="eval", state=stats).y.astype(np.float64)
    assert rows[2]["gap"] == pytest.approx([np.sqrt(((y - other) ** 2).mean()), np.abs(y - other).max()])
    assert rows[4]["gap"][0] < rows[2]["gap"][0]  # what batch renormalization is for


def test_compare_of_features_leaves_instance_norm_out(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(here / "f.npy", activations(shape=(6, 8)))
    monkeypatch.chdir(here)
    assert cli.run(["tensor", "compare", "f.npy", "--json"]) == 0
    names = [row["name"].split()[0] for row in json.loads(capfd.readouterr().out)["rows"]]
    assert names == ["input", "batch_norm", "layer_norm", "group_norm", "rms_norm"]
    assert cli.run(["tensor", "compare", "f.npy", "--with", "instance_norm"]) == 1
    told = "normcli: f.npy: instance_norm: 2 or more values per sample and channel are required"
    assert capfd.readouterr().err.startswith(told)


def test_statistics_of_a_normalizer_are_saved(run: Run, here: Path) -> None:
    asked = ("layer-norm", "b0.npy", *NCHW, "--axes", "image", "--eps", "0.5")
    done = run("tensor", *asked, "--save-statistics", "s.npz", "-o", "y.npy")
    lines = [
        "wrote y.npy: float32 (6, 4, 5, 3)",
        "wrote s.npz: mean float64 (6, 1, 1, 1), inverse_std float64 (6, 1, 1, 1)",
    ]
    assert done.returncode == 0 and done.stderr.decode().splitlines() == lines
    wanted = nn.layer_norm_statistics(activations(0), layout="NCHW", axes="image", eps=0.5)
    with np.load(here / "s.npz") as saved:
        assert list(saved) == ["mean", "inverse_std"]
        for key, values in wanted.items():
            np.testing.assert_array_equal(saved[key], values)
    refused(run("tensor", *asked, "--save-statistics", "s.npz"), 2, "s.npz", "--force")
    refused(run("tensor", "layer-norm", "b0.npy", "b1.npy", *NCHW, "--save-statistics", "t.npz"), 2, "one IN")
    series = ("--layout", "NCHW", "--last", "--save-statistics", "r.npz", "-o", "n.npy")
    assert run("tensor", "reversible-instance-norm", "b0.npy", *series).returncode == 0
    back = ("--layout", "NCHW", "--mean", "r.npz:mean", "--std", "r.npz:std", "-o", "x.npy")
    assert run("tensor", "reversible-instance-denorm", "n.npy", *back).returncode == 0
    np.testing.assert_allclose(np.load(here / "x.npy"), activations(0), rtol=1e-5, atol=1e-5)


def test_compare_shows_each_channel(run: Run, here: Path) -> None:
    x = activations(0)
    x[0, 2, 0, 0], x[1, 2, 1, 1], x[1, 3, 0, 0] = np.nan, np.inf, np.nan
    np.save(here / "n.npy", x)
    asked = ("compare", "n.npy", *NCHW, "--with", "instance_norm", "--per", "channel")
    rows = json.loads(run("tensor", *asked, "--json", "--memory-limit", "200K").stdout)["rows"]
    assert [len(row["channels"]) for row in rows] == [x.shape[1]] * 2
    finite = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    for number, channel in enumerate(rows[0]["channels"]):
        values = finite[:, number]
        wanted = np.nanmean(values), np.nanstd(values), np.nanmin(values), np.nanmax(values)
        assert [channel[key] for key in ("mean", "std", "min", "max")] == pytest.approx(wanted, rel=1e-12)
        assert (channel["nan"], channel["inf"]) == (np.isnan(x[:, number]).sum(), np.isinf(x[:, number]).sum())
    assert (rows[0]["nan"], rows[0]["inf"], rows[0]["nonfinite"]) == (2, 1, 3)
    text = run("tensor", *asked, env={"COLUMNS": "120"}).stdout.decode()
    assert text.count("channel 2") == 2 and "NaN" in text.splitlines()[0]
    lonely = run("tensor", "compare", "n.npy", "--with", "tensor_norm", "--per", "channel")
    assert lonely.returncode == 2 and b"--layout" in lonely.stderr


def test_comparing_what_is_not_finite_gives_json(run: Run, here: Path) -> None:
    np.save(here / "nan.npy", np.full((2, 4, 2, 2), np.nan, np.float32))
    done = run("tensor", "compare", "nan.npy", *NCHW, "--with", "batch_norm", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["rows"]
    assert [row["mean"] for row in rows] == [None, None]


def test_every_normalizer_with_a_layout_can_be_compared(run: Run, here: Path) -> None:
    wanted = [n for n, one in NORMALIZERS.items() if "layout" in one.settings and len(one.tensors) == 1]
    done = run("tensor", "compare", "b0.npy", *NCHW, "--with", ",".join(wanted), "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == len(wanted) + 1


def test_names_with_colons_and_dashes(run: Run, here: Path) -> None:
    (here / "a:b.npy").write_bytes((here / "b0.npy").read_bytes())
    (here / "-x.npy").write_bytes((here / "b0.npy").read_bytes())
    assert run("tensor", "rms-norm", "a:b.npy", "--axes=-1", "-o", "1.npy").returncode == 0
    assert run("tensor", "rms-norm", "--axes=-1", "-o", "2.npy", "--", "-x.npy").returncode == 0
    assert (here / "1.npy").read_bytes() == (here / "2.npy").read_bytes()


def test_written_files_are_the_same_bytes_again(tmp_path: Path) -> None:
    x = activations()
    for name in ("a.npz", "b.npz"):
        arrays.save_npz(tmp_path / name, {"x": x})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    arrays.create_npy(tmp_path / "x.npy", x.shape, x.dtype).close()
    assert np.load(tmp_path / "x.npy").shape == x.shape


def test_what_is_not_finite_is_counted_on_stderr(run: Run, here: Path) -> None:
    x = activations()
    x[0, 0, 0, :2] = np.nan
    x[3, 1, 2, 0] = -np.inf
    np.save(here / "x.npy", x)
    np.savez(here / "x.npz", a=x, b=activations(1))
    line = "note: x.npy: 3 of 360 values are not finite (NaN or infinity)\n"
    done = run("tensor", "batch-norm", "x.npy", *NCHW, "-o", "y.npy")  # reads its input twice
    assert (done.returncode, done.stderr.decode()) == (0, line + "wrote y.npy: float32 (6, 4, 5, 3)\n")
    done = run("tensor", "group-norm", "x.npz", *NCHW, "--groups", 2, "-o", "y.npz")
    assert (
        done.stderr.decode()
        == line.replace("x.npy", "x.npz:a") + "wrote y.npz: a float32 (6, 4, 5, 3), b float32 (6, 4, 5, 3)\n"
    )
    done = run("tensor", "rms-norm", "b0.npy", "--axes=1", "--grad", "x.npy", "-o", "g.npz")
    assert (
        done.stderr.decode()
        == line + "wrote g.npz: dx float32 (6, 4, 5, 3), dweight float32 (4,), dbias float32 (4,)\n"
    )
    assert run("tensor", "batch-norm", "x.npy", *NCHW, "-o", "q.npy", "--quiet").stderr == b""
    done = run("tensor", "compare", "x.npy", *NCHW, "--with", "rms_norm:axes=1", "--json")
    assert done.stderr.decode().splitlines()[0] + "\n" == line
    assert json.loads(done.stdout)["rows"][0]["nonfinite"] == 3


@pytest.mark.parametrize("out", ["y.npy", "y.npz", "y.safetensors", "y.pt", "-"])
@pytest.mark.parametrize("limit", [(), ("--memory-limit", "20M")], ids=["memory", "limit"])
def test_results_that_overflow_are_counted_on_stderr(run: Run, here: Path, out: str, limit: tuple[str, ...]) -> None:
    x = activations().astype(np.float16)
    np.save(here / "x.npy", x)
    np.save(here / "w.npy", np.full(4, 1e5, np.float32))
    done = run("tensor", "group-norm", "x.npy", *NCHW, "--groups", 2, "--weight", "w.npy", "-o", out, *limit)
    with np.errstate(over="ignore"):
        expected = np.isinf(nn.group_norm(x, layout="NCHW", groups=2, weight=np.full(4, 1e5)))
    count, name = int(expected.sum()), "stdout" if out == "-" else out
    assert 0 < count < x.size
    line = f"note: {name}: {count} of 360 results are infinite: beyond the range of float16 (--dtype float32)"
    assert (done.returncode, done.stderr.decode().splitlines()[0]) == (0, line)


def test_results_that_overflow_in_large_files_and_gradients_are_counted(run: Run, here: Path) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4, 300, 300)).astype(np.float32)  # blocks, written by threads
    np.save(here / "x.npy", x)
    np.save(here / "dy.npy", np.clip(x[::-1], -3, 3) * np.float32(1e38))
    done = run("tensor", "dynamic-tanh", "x.npy", *NCHW, "--weight", "1e38", "--bias", "3e38", "-o", "y.npy")
    count = int(np.count_nonzero(np.isinf(np.load(here / "y.npy"))))
    line = f"note: y.npy: {count:,} of 2,880,000 results are infinite: beyond the range of float32 (--dtype float64)"
    assert (done.stderr.decode().splitlines()[0], count > 0) == (line, True)
    done = run("tensor", "rms-norm", "x.npy", "--axes=-1", "--weight", "100", "--grad", "dy.npy", "-o", "h.npz")
    count = int(np.count_nonzero(np.isinf(np.load(here / "h.npz")["dx"])))
    line = f"note: h.npz:dx: {count:,} of 2,880,000 results are infinite: beyond the range of float32"
    assert (line in done.stderr.decode().splitlines(), count > 0) == (True, True)


def test_results_without_a_value_are_counted_on_stderr(run: Run, here: Path) -> None:
    np.savez(here / "x.npz", a=np.ones((2, 4, 3, 3), np.float32), b=activations())
    done = run("tensor", "instance-norm", "x.npz", *NCHW, "--eps", 0, "-o", "y.npz")
    assert done.stderr.decode().splitlines()[0] == (
        "note: y.npz:a: 72 of 72 results are NaN, though all values read are finite"
    )
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("weight-norm", ()),
        ("power-norm", NCHW),
        ("global-response-norm", NCHW),
        ("spectral-norm", ()),
        ("compare", NCHW),
    ],
)
def test_numpy_says_nothing_on_the_terminal(run: Run, here: Path, name: str, settings: tuple[str, ...]) -> None:
    np.save(here / "big.npy", activations(dtype=np.float64) * 1e300)
    np.save(here / "none.npy", np.zeros((4, 0, 2, 2)))
    for file in ("big.npy", "none.npy"):
        output = () if name == "compare" else ("-o", f"y-{file}")
        done = run("tensor", name, file, *settings, *output)
        assert b"Warning" not in done.stderr, done.stderr
        assert b"internal error" not in done.stderr, done.stderr


def test_numbers_without_axes_and_empty_batches_have_no_internal_errors(run: Run, here: Path) -> None:
    np.save(here / "scalar.npy", np.float32(3))
    safetensors.write(here / "scalar.safetensors", {"t": np.array(2.0, np.float32)})
    np.save(here / "empty.npy", np.zeros((0, 4, 5, 3), np.float32))
    np.save(here / "vector.npy", np.zeros((0,), np.float32))
    for name in ("batch-norm", "rms-norm", "tensor-norm", "weight-norm", "spectral-norm", "l2-normalize", "compare"):
        output = () if name == "compare" else ("-o", "y.npy", "-f")
        for file in ("scalar.npy", "scalar.safetensors", "vector.npy"):
            done = run("tensor", name, file, *output)
            text = done.stderr.decode()
            assert done.returncode in (0, 1, 2), (name, file)
            assert "internal error" not in text, (name, file, text)
            assert "Traceback" not in text, (name, file, text)
    for name, settings in (("instance-norm", ()), ("group-norm", ("--groups", "2"))):
        done = run("tensor", name, "empty.npy", *NCHW, *settings, "--grad", "empty.npy", "-o", f"{name}.npz")
        assert done.returncode == 0, done.stderr
        with np.load(here / f"{name}.npz") as gradients:
            assert gradients["dx"].shape == (0, 4, 5, 3)
            np.testing.assert_array_equal(gradients["dweight"], np.zeros(4))
    refused(run("tensor", "batch-norm", "scalar.npy", "-o", "z.npy"), 1, "scalar.npy", "rank 0")


def test_a_sparse_tensor_is_refused_in_one_line(run: Run, here: Path) -> None:
    torch = needs.module("torch")
    torch.save(torch.eye(4).to_sparse(), here / "s.pt")
    refused(run("tensor", "rms-norm", "s.pt", "-o", "y.npy"), 1, "s.pt", "sparse_coo", ".to_dense()")


def test_compare_honors_its_memory_limit(run: Run, here: Path) -> None:
    refused(run("tensor", "compare", "b0.npy", *NCHW, "--memory-limit", "5K"), 1, "b0.npy", "raise --memory-limit")
    assert run("tensor", "compare", "b0.npy", *NCHW, "--memory-limit", "5M").returncode == 0


def test_batches_run_in_natural_order(run: Run, here: Path) -> None:
    names = ["b0", "b1", "b2", "b10"]
    np.save(here / "b10.npy", activations(10))
    (here / "b3.npy").unlink()
    batches = {name: np.load(here / f"{name}.npy") for name in names}
    safetensors.write(here / "in.safetensors", {name: batches[name] for name in sorted(names)})
    np.savez(here / "in.npz", **{name: batches[name] for name in sorted(names)})
    state = None
    for name in names:
        state = nn.batch_norm(batches[name], layout="NCHW", state=state).state
    assert state is not None
    shell = [f"{name}.npy" for name in sorted(names)]
    for inputs in (["in.safetensors"], ["in.npz"], ["b*.npy"], shell):
        done = run("tensor", "batch-norm", *inputs, *NCHW, "--save-state", "s.npz", "-f")
        assert done.returncode == 0, done.stderr
        with np.load(here / "s.npz") as stored:
            np.testing.assert_array_equal(stored["running_mean"], state["running_mean"])
        assert (b"natural order: b0.npy, b1.npy, b2.npy, b10.npy" in done.stderr) == (inputs is shell)
    refused(run("tensor", "batch-norm", "c*.npy", *NCHW, "--save-state", "z.npz"), 2, "c*.npy: no file matches")


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("C64", 8)])
def test_a_dtype_that_cannot_be_read_blocks_no_other_tensor(run: Run, here: Path, dtype: str, size: int) -> None:
    x = activations()
    entries = {
        "scale": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]},
        "x": {"dtype": "F32", "shape": list(x.shape), "data_offsets": [4 * size, 4 * size + x.nbytes]},
    }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + bytes(4 * size) + x.tobytes()
    (here / "m.safetensors").write_bytes(content)
    done = run("tensor", "rms-norm", "m.safetensors:x", "--axes=1", "-o", "y.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(here / "y.npy"), nn.rms_norm(x, axes=(1,)))
    refused(run("tensor", "rms-norm", "m.safetensors:scale", "--axes=1", "-o", "z.npy"), 1, ":scale", dtype)
    refused(run("tensor", "compare", "m.safetensors:scale"), 1, ":scale", dtype)
    refused(run("tensor", "compare", "m.safetensors"), 1, "2 tensors (scale, x)")
    done = run("tensor", "rms-norm", "m.safetensors", "--axes=1", "-o", "z.npz", "--quiet")
    wanted = f"warning: m.safetensors:scale: dtype {dtype} cannot be read: left out of the result\n"
    assert (done.returncode, done.stderr.decode()) == (3, wanted)
    with np.load(here / "z.npz") as made:
        assert made.files == ["x"]
        np.testing.assert_array_equal(made["x"], nn.rms_norm(x, axes=(1,)))


def test_a_dtype_of_torch_blocks_no_other_tensor(run: Run, here: Path) -> None:
    torch = needs.module("torch")
    torch.save({"s": torch.ones(4).to(torch.float8_e4m3fn), "x": torch.tensor(activations())}, here / "m.pt")
    assert run("tensor", "rms-norm", "m.pt:x", "--axes=1", "-o", "y.npy").returncode == 0
    refused(run("tensor", "rms-norm", "m.pt:s", "--axes=1", "-o", "z.npy"), 1, "m.pt:s", "float8_e4m3fn")
    torch.save({"s": torch.eye(4).to_sparse(), "x": torch.tensor(activations())}, here / "m.pt")
    done = run("tensor", "rms-norm", "m.pt", "--axes=1", "-o", "z.pt")
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 2)
    assert b"warning: m.pt:s: a sparse_coo tensor" in done.stderr
    assert list(torch.load(here / "z.pt", weights_only=True)) == ["x"]


def test_complex_text_and_objects_block_no_other_tensor(run: Run, here: Path) -> None:
    x = activations()
    np.savez(here / "m.npz", a=x, b=x * 1j, c=np.array(["text"]), d=np.array([None]), e=x > 10, f=activations(1))
    for name, options in (
        ("group-norm", ("--groups", 2)),
        ("batch-norm", ("--recompute-state", "--save-state", "s.npz")),
    ):
        done = run("tensor", name, "m.npz", *NCHW, *options, "-o", f"{name}.npz")
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 3, lines
        assert [line[:15] for line in lines[:4]] == [f"warning: m.npz:{key}"[:15] for key in "bcde"], lines
        with np.load(here / f"{name}.npz") as made:
            assert made.files == ["a", "f"]
    with np.load(here / "s.npz") as state:
        assert state["num_batches_tracked"] == 2
    np.savez(here / "n.npz", b=x * 1j, c=np.array(["text"]))
    refused(run("tensor", "rms-norm", "n.npz", "--axes=1", "-o", "z.npz"), 1, "n.npz:b", "complex64")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((6, 4), "V2"), "2 bytes without a type, as NumPy writes bfloat16"),
        (np.zeros((6, 4), "V3"), "3 bytes without a type"),
        (np.zeros((6, 4), "U3"), "dtype <U3 cannot"),
        (np.zeros((6, 4), "M8[s]"), "dtype datetime64[s] cannot"),
        (np.zeros((6, 4), np.complex64), "dtype complex64 cannot"),
        (np.zeros((6, 4), bool), "dtype bool cannot"),
    ],
    ids=str,
)
def test_elements_that_are_no_numbers_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], array: Array, words: str
) -> None:
    np.save(here / "x.npy", array)
    monkeypatch.chdir(here)
    for command in (
        ["rms-norm", "x.npy", "-o", "y.npy"],
        ["compare", "x.npy"],
        ["weight-norm", "x.npy", "-o", "y.npy"],
    ):
        assert cli.run(["tensor", *command]) == 1
        text = capfd.readouterr().err
        assert text.startswith("normcli: x.npy: ") and words in text and text.count("\n") == 1, text


@pytest.mark.parametrize("dtype", ["U3", "V2", "M8[s]", "?"])
def test_parameters_and_states_that_are_no_numbers_are_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], dtype: str
) -> None:
    np.save(here / "p.npy", np.zeros(4, dtype))
    np.savez(here / "s.npz", running_mean=np.zeros(4, dtype), running_var=np.ones(4))
    monkeypatch.chdir(here)
    for option in (("--weight", "p.npy"), ("--state", "s.npz")):
        assert cli.run(["tensor", "batch-norm", "b0.npy", *NCHW, *option, "-o", "y.npy"]) == 1
        text = capfd.readouterr().err
        assert text.startswith("normcli: b0.npy: batch_norm: ") and text.count("\n") == 1, text


def test_a_state_of_another_normalizer_is_named_as_one(run: Run, here: Path) -> None:
    done = run("tensor", "batch-norm", "b0.npy", *NCHW, "--preset", "keras", "--save-state", "k.npz")
    assert done.stderr == b"wrote k.npz: 1 batch\n"
    for name in ("power-norm", "batch-renorm", "lp-batch-norm", "noisy-batch-norm"):
        seed = ("--seed", 1) if name == "noisy-batch-norm" else ()
        words = f"k.npz: the state belongs to batch_norm, not to {name.replace('-', '_')}"
        refused(run("tensor", name, "b0.npy", *NCHW, *seed, "--state", "k.npz", "-o", "y.npy"), 1, words)


def test_a_state_that_is_not_finite_is_counted(run: Run, here: Path) -> None:
    np.savez(here / "s.npz", running_mean=np.array([0, np.nan, 0, 0]), running_var=np.full(4, np.inf))
    done = run("tensor", "batch-norm", "b0.npy", *NCHW, "--mode", "eval", "--state", "s.npz", "-o", "y.npy")
    assert done.returncode == 0
    lines = [f"note: s.npz:running_{key} of 4 values" for key in ("mean: 1", "var: 4")]
    assert [line.partition(" values")[0] + " values" for line in done.stderr.decode().splitlines()[:2]] == lines


def test_values_that_float64_cannot_hold_are_counted(run: Run, here: Path) -> None:
    whole = (2**60 + np.arange(24)).reshape(6, 4)
    whole[0] = 2**53
    np.save(here / "i.npy", whole)
    np.save(here / "u.npy", whole.astype("u8"))
    np.save(here / "n.npy", -whole)
    for name in ("i.npy", "u.npy", "n.npy"):
        done = run("tensor", "batch-norm", name, "-o", "y.npy", "-f")
        line = f"note: {name}: 20 of 24 integers are beyond 2^53 and rounded to float64\n"
        assert (done.returncode, done.stderr.decode()) == (0, line + "wrote y.npy: float32 (6, 4)\n")
    large = activations(dtype=np.float64)
    large[0, 0, 0, 0] = 1e200
    np.save(here / "l.npy", large)
    line = "note: l.npy: 1 of 360 values is beyond 6.7e153: a statistic of squares overflows\n"
    done = run("tensor", "rms-norm", "l.npy", "--axes=1", "-o", "y.npy", "-f")
    assert (done.returncode, done.stderr.decode()) == (0, line + "wrote y.npy: float64 (6, 4, 5, 3)\n")
    done = run("tensor", "compare", "l.npy", *NCHW, "--with", "lp_normalize", "--json")
    assert done.stderr.decode() == line
    assert json.loads(done.stdout)["rows"][0]["max"] == 1e200


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", ">i8", "u8"])
def test_large_integers_do_not_collapse(dtype: str) -> None:
    x = np.array([[[2**24, 2**24 + 1, 2**24 + 2, 2**24 + 3]]], dtype)
    y = nn.instance_norm(x, layout="NCL", eps=0.0)
    wanted = nn.instance_norm(x.astype(np.float64), layout="NCL", eps=0.0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    np.testing.assert_array_equal(nn.batch_norm(x, layout="NCL").y, nn.batch_norm(x * 1.0, layout="NCL").y.astype("f4"))


def test_a_number_is_a_parameter_too(run: Run, here: Path) -> None:
    np.save(here / "x.npy", activations() - 10)
    for text in ("-inf", "0.25", "-1e-3"):
        done = run("tensor", "filter-response-norm", "x.npy", *NCHW, f"--tau={text}", "-o", "y.npy", "-f")
        assert done.returncode == 0, done.stderr
        wanted = nn.filter_response_norm(activations() - 10, layout="NCHW", tau=np.full(4, float(text)))
        np.testing.assert_array_equal(np.load(here / "y.npy"), wanted)
    assert run("tensor", "filter-response-norm", "x.npy", *NCHW, "--tau", "-inf", "-o", "z.npy").returncode == 0
    refused(run("tensor", "filter-response-norm", "x.npy", *NCHW, "--tau", "no.npy", "-o", "q.npy"), 1, "no such file")


@pytest.mark.parametrize("name", ["weight-norm", "spectral-norm", "centred-weight-norm", "weight-standardization"])
def test_vectors_of_a_checkpoint_are_left_alone(run: Run, here: Path, name: str) -> None:
    w = activations(shape=(4, 3, 2))
    np.savez(here / "c.npz", conv=w, bias=np.arange(4.0), steps=np.int64(7))
    done = run("tensor", name, "c.npz", "-o", "n.npz")
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().splitlines()[0] == "note: c.npz: left as they are, having no rows: bias, steps"
    with np.load(here / "n.npz") as made:
        np.testing.assert_array_equal(made["bias"], np.arange(4.0))
        assert made["steps"] == 7
        assert not np.array_equal(made["conv"], w)
