"""Random shapes, types and settings: a normalizer gives a result or one line of error, never anything else."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.cli import main as cli
from normcli.errors import TensorError, UsageError
from normcli.storage.safetensors_format import bfloat16
from normcli.tensor import files, safetensors
from normcli.tensor.normalizers import NORMALIZERS, Normalizer
from normcli.tensor.normalizers.registry import Setting, describe
from normcli.tensor.normalizers.views import LAYOUTS
from tests.support import needs

Array = np.ndarray[Any, Any]

DTYPES = ["f2", "f4", "f8", ">f4", ">f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", ">i8", "u8", "bf16"]
ODD = ["?", "c8", "U2", "M8[s]", "V2", "O", "g"]
SIZES = [0, 1, 1, 2, 2, 3, 4, 4, 8]
FLOATS = [0.0, 1e-300, 1e-12, 1e-5, 0.1, 0.5, 1.0, 2.0, 3.5, 1e9, 1e300, -1.0, float("nan"), float("inf")]
INTEGERS = [-1, 0, 1, 1, 2, 2, 3, 4, 5, 15]
VALUES = [0.0, 1.0, 1e-320, 1e-200, 1e200, 1.7e308, float("nan"), float("inf"), 2.0**60]


def tensor(draw: random.Random, shape: tuple[int, ...] | None = None) -> Array:
    if shape is None:
        shape = tuple(draw.choice(SIZES) for _ in range(draw.choice([0, 1, 2, 2, 3, 3, 4, 4, 4, 5, 6])))
    name = draw.choice(DTYPES if draw.random() < 0.95 else ODD)
    dtype = bfloat16() if name == "bf16" else np.dtype(name)
    numbers = np.random.default_rng(draw.randrange(1 << 30)).standard_normal(shape) * draw.choice([0.0, 1.0, 3.0, 1e4])
    if draw.random() < 0.15:
        numbers = numbers + np.array(draw.choice(VALUES))
    if dtype.kind in "iu":
        numbers = np.nan_to_num(np.clip(numbers, np.iinfo(dtype).min / 2, np.iinfo(dtype).max / 2))
    with np.errstate(all="ignore"):
        x = np.zeros(shape, dtype) if dtype.kind in "MVUO" else numbers.astype(dtype)
    if x.ndim > 1 and draw.random() < 0.2:
        x = np.asfortranarray(x)
    return x


def value(draw: random.Random, setting: Setting, x: Array) -> Any:
    """Make a value of the setting's kind, most often one that fits the tensor."""
    if setting.name == "layout":
        fitting = [layout for layout in LAYOUTS if len(layout) == x.ndim]
        return draw.choice(fitting if fitting and draw.random() < 0.95 else LAYOUTS)
    if setting.name == "axes":
        return draw.choice(["token", "image", "-1", "1", "0,1", "1,2", "2,3", "0", "7", ""])
    if setting.choices:
        return draw.choice(setting.choices)
    if setting.kind is bool:
        return draw.random() < 0.5
    if setting.kind is int:
        return draw.choice(INTEGERS)
    if setting.kind is float:
        return draw.choice(FLOATS)
    shapes = [(), *((n,) for n in x.shape), x.shape[:2], x.shape[1:], x.shape[-1:] * 2, (3,)]
    return tensor(draw, draw.choice(shapes))


def settings(draw: random.Random, one: Normalizer, x: Array) -> dict[str, Any]:
    chosen = {}
    for setting in describe(one).settings:
        often = 1.0 if setting.required else {"layout": 0.9, "axes": 0.5}.get(setting.name, 0.15)
        if setting.name not in one.tensors and draw.random() < often:
            chosen[setting.name] = value(draw, setting, x)
    return chosen


def state_of(draw: random.Random, made: Any) -> Any:
    """Return the state of a result, now and then damaged."""
    state = dict(made.state)
    if state and draw.random() < 0.3:
        key = draw.choice(list(state))
        state[key] = tensor(draw) if draw.random() < 0.5 else state[key].astype("f2")
    return state


def try_functions(seed: int) -> int:
    """Call one normalizer and its gradient; return the number of calls that gave a result."""
    draw = random.Random(seed)
    one = NORMALIZERS[draw.choice(sorted(NORMALIZERS))]
    x = tensor(draw)
    others = [tensor(draw, draw.choice([x.shape, (3, *x.shape[-1:])])) for _ in one.tensors[1:]]
    chosen = settings(draw, one, x)
    done, made = 0, None
    try:
        made = one.function(x, *others, **chosen)
        done += 1
        if isinstance(made, nn.Normalized) and made.state:
            with np.errstate(all="ignore"):
                state = state_of(draw, made)
            again = one.function(x, **{**chosen, "mode": draw.choice(["train", "eval"]), "state": state})
            done += again is not None
    except (TensorError, UsageError) as error:
        assert "\n" not in str(error)
    if one.vjp is not None:
        y = made.y if isinstance(made, nn.Normalized) else made
        dy = tensor(draw, y.shape if y is not None and draw.random() < 0.9 else None)
        accepted = Normalizer(one.name, one.vjp).settings
        try:
            gradients = one.vjp(x, *others, dy, **{key: v for key, v in chosen.items() if key in accepted})
            assert tuple(gradients) == one.gradients
            assert gradients["dx"].shape == x.shape
            done += 1
        except (TensorError, UsageError) as error:
            assert "\n" not in str(error)
    if made is not None and one.name != "cosine_norm":
        y = made.y if isinstance(made, nn.Normalized) else made
        assert y.shape == x.shape
    return done


def write(draw: random.Random, folder: Path, name: str, x: Array) -> str:
    """Save a tensor in one of the formats, alone or beside others."""
    suffix = draw.choice([".npy", ".npy", ".npz", ".safetensors"])
    path = folder / f"{name}{suffix}"
    try:
        if suffix == ".npy":
            np.save(path, x)
        elif suffix == ".npz":
            members: dict[str, Any] = {"x": x} | ({"y": tensor(draw)} if draw.random() < 0.3 else {})
            np.savez(path, **members)
        else:
            safetensors.write(path, {"x": x} | ({"b": tensor(draw)} if draw.random() < 0.3 else {}))
    except TensorError:  # a type that the format lacks
        path = folder / f"{name}.npy"
        np.save(path, x)
    return str(path)


def try_command(seed: int, folder: Path) -> int:
    """Run one command; return its exit code."""
    draw = random.Random(seed)
    folder.mkdir()
    if draw.random() < 0.1:
        x = tensor(draw)
        names = ",".join(draw.sample(sorted(NORMALIZERS), 3))
        command = ["compare", write(draw, folder, "x", x), "--with", names]
        layouts = [layout for layout in LAYOUTS if len(layout) == x.ndim]
        return cli.run(["tensor", *command, *(["--layout", draw.choice(layouts)] if layouts else [])])
    one = NORMALIZERS[draw.choice(sorted(NORMALIZERS))]
    x = tensor(draw)
    arguments = ["tensor", one.name.replace("_", "-"), write(draw, folder, "x", x)]
    for key, chosen in settings(draw, one, x).items():
        option = f"--{key.replace('_', '-')}"
        if chosen is True or chosen is False:
            arguments += [option] * chosen
        else:
            arguments.append(
                f"{option}={write(draw, folder, key, chosen) if isinstance(chosen, np.ndarray) else chosen}"
            )
    for name in one.tensors[1:]:
        arguments += [f"--{name}", write(draw, folder, name, tensor(draw, draw.choice([x.shape, (3, *x.shape[-1:])])))]
    if one.vjp is not None and draw.random() < 0.4:
        arguments += ["--grad", write(draw, folder, "dy", tensor(draw, x.shape))]
    if one.state and draw.random() < 0.3:
        arguments += ["--save-state", str(folder / f"s{draw.choice(['.npz', '.safetensors'])}")]
    if draw.random() < 0.2:
        arguments += ["--memory-limit", draw.choice(["10", "1K", "1M"])]
    return cli.run([*arguments, "-o", str(folder / f"out{draw.choice(['.npy', '.npz', '.safetensors'])}")])


@pytest.mark.parametrize("part", range(4))
def test_functions_give_a_result_or_one_line(part: int) -> None:
    needs.module("ml_dtypes")
    done = [try_functions(seed) for seed in range(part * 200, (part + 1) * 200)]
    assert sum(map(bool, done)) > 40


def test_commands_end_with_a_documented_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs.module("ml_dtypes")
    codes = []
    for seed in range(120):
        codes.append(try_command(seed, tmp_path / str(seed)))
        told = capfd.readouterr()
        assert codes[-1] in (0, 1, 2, 3), (seed, told.err)
        assert "internal error" not in told.err and "Warning" not in told.err, (seed, told.err)
        outputs = [path for path in (tmp_path / str(seed)).iterdir() if path.name.startswith(("out", ".out"))]
        assert len(outputs) == (codes[-1] in (0, 3) and "compare" not in told.out) or not outputs, (seed, outputs)
    assert codes.count(0) > 15


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(20))
def test_many_functions_and_commands(part: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(10_000 + part * 2_000, 10_000 + (part + 1) * 2_000):
        try_functions(seed)
    for seed in range(10_000 + part * 300, 10_000 + (part + 1) * 300):
        code = try_command(seed, tmp_path / str(seed))
        told = capfd.readouterr()
        assert code in (0, 1, 2, 3) and "internal error" not in told.err, (seed, told.err)


def test_what_is_written_can_be_opened(tmp_path: Path) -> None:
    draw = random.Random(1)
    for i in range(20):
        with files.open_tensors(write(draw, tmp_path, str(i), tensor(draw, (2, 3)))) as tensors:
            assert tensors
