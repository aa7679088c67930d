"""Forward and vjp of every normalizer against torch's automatic differentiation, in float64, within 1e-10."""

from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.tensor.normalizers import NORMALIZERS
from tests.support.torch_reference import CATALOG, Case, torch

Array = np.ndarray[Any, Any]

TOLERANCE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = {2: (6, 4), 3: (6, 4, 5), 4: (6, 4, 3, 5), 5: (6, 4, 2, 3, 2)}
FIRST = {2: "NC", 3: "NCL", 4: "NCHW", 5: "NCDHW"}
LAST = {3: "NLC", 4: "NHWC", 5: "NDHWC"}


def data(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape) * 1.5 + 0.4


def last(x: Array) -> Array:
    return np.moveaxis(x, 1, -1)


def variants(case: Case, rank: int) -> Any:
    """Yield the parameters of a call: without and with weight and bias, of (C) and of (N, C)."""
    shape = SHAPES[rank]
    own = {name: data(i + 5, *make(shape)) for i, (name, make) in enumerate(case.parameters.items())}
    if "rho" in own:
        own["rho"] = np.linspace(0, 1, shape[1])
    yield own
    if case.affine:
        yield own | {"weight": data(1, shape[1]), "bias": data(2, shape[1])}
        if case.name not in ("layer_norm", "rms_norm"):
            yield own | {"weight": data(1, *shape[:2]), "bias": data(2, *shape[:2])}
            yield own | {"weight": data(1, *shape[:2]), "bias": data(2, shape[1])}
            yield own | {"weight": data(1, shape[1]), "bias": data(2, *shape[:2])}


def check(case: Case, x: Array, layout: str | None, parameters: dict[str, Array]) -> None:
    """Compare the result, and the gradients of x and of the parameters; x and the results are in the layout."""
    one = NORMALIZERS[case.name]
    back = layout in LAST.values()
    moved = {key: last(value) if back and value.ndim == x.ndim else value for key, value in parameters.items()}
    positions = [moved.pop(name) for name in one.tensors[1:]]
    settings = case.settings | moved | ({"layout": layout} if "layout" in one.settings else {})
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in {"x": x, **parameters}.items()}
    wanted = case.function(leaves["x"], **{key: leaf for key, leaf in leaves.items() if key != "x"})
    given = last(x) if back else x  # strided, as torch's channels_last
    made = one.function(given, *positions, **settings)
    y = np.asarray(made.y if isinstance(made, nn.Normalized) else made)
    np.testing.assert_allclose(np.moveaxis(y, -1, 1) if back else y, wanted.detach().numpy(), **TOLERANCE)
    if one.vjp is None:
        return
    dy = data(3, *wanted.shape)
    wanted.backward(torch.tensor(dy))
    accepted = nn.Normalizer(case.name, one.vjp).settings
    settings = {key: value for key, value in settings.items() if key in accepted}
    gradients = one.vjp(given, *positions, last(dy) if back else dy, **settings)
    assert tuple(gradients) == one.gradients
    for key, leaf in leaves.items():
        found = gradients[f"d{key}"]
        found = np.moveaxis(found, -1, 1) if back and found.ndim == x.ndim else found
        np.testing.assert_allclose(found, leaf.grad.numpy(), err_msg=key, **TOLERANCE)


def label(case: Case) -> str:
    words = [str(value) for value in case.settings.values() if not isinstance(value, dict)]
    return " ".join([case.name, *words, *case.parameters])


@pytest.mark.parametrize("case", CATALOG, ids=label)
def test_torch_differentiates_the_same(case: Case) -> None:
    for rank in case.ranks:
        x = data(0, *SHAPES[rank])
        for parameters in variants(case, rank):
            layouts = [FIRST[rank], LAST.get(rank)] if "layout" in NORMALIZERS[case.name].settings else [None]
            for layout in filter(None, layouts) if layouts != [None] else layouts:
                check(case, x, layout, parameters)


def test_every_normalizer_and_every_gradient_has_a_case() -> None:
    assert {case.name for case in CATALOG} == set(NORMALIZERS)
    assert {case.name for case in CATALOG} >= {n for n, one in NORMALIZERS.items() if one.vjp}


def test_the_comparison_sees_a_wrong_gradient() -> None:
    right = next(case for case in CATALOG if case.name == "batch_norm")
    wrong = right._replace(function=lambda x, **p: right.function(x.detach(), **p) + 0 * x)
    with pytest.raises(AssertionError, match="x"):
        check(wrong, data(0, 6, 4), "NC", {})
