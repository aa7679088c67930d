"""The table of normalizers: a decorator enters each where it is defined, checks shared settings and names errors."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from types import UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np

from normcli.errors import NormcliError, TensorError, UsageError, unknown
from normcli.kernels.kernel import KernelUnavailable
from normcli.tensor.normalizers.views import Array

P = ParamSpec("P")
R = TypeVar("R")

State = Mapping[str, Array]
Family = Literal["batch", "layer", "weight", "other"]

# keys of a state file that describe it, next to the statistics
ELEMENTS = "elements"  # number of elements per channel behind exact statistics
LABELS = ("normalizer", "preset", ELEMENTS)


class Normalized(NamedTuple):
    """The result of a normalizer with running statistics: the tensor, and the state after it."""

    y: Any
    state: dict[str, Array]


@dataclass
class Normalizer:
    """A normalizer and its properties.

    Attributes:
        name: of the function.
        function: the normalizer.
        family: the tensors that its statistics are taken over: a batch, a sample or layer, a weight.
        state: names of its running statistics.
        presets: framework -> settings that differ from the function's defaults.
        exact: makes the state from the moments of complete channels, for precise statistics.
        vjp: the vector-Jacobian product.
        gradients: the keys of its results.
        statistics: the function that returns the statistics which it normalizes by.
        statistic_names: the keys of its result.
    """

    name: str
    function: Callable[..., Any]
    family: Family = "other"
    state: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exact: Callable[..., dict[str, Array]] | None = None
    vjp: Callable[..., dict[str, Array]] | None = None
    gradients: tuple[str, ...] = ()
    statistics: Callable[..., dict[str, Array]] | None = None
    statistic_names: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """Return the keyword-only parameters of the function."""
        parameters = inspect.signature(self.function).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def tensors(self) -> tuple[str, ...]:
        """Return the names of the tensors it takes by position."""
        parameters = inspect.signature(self.function).parameters
        return tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)

    def preset(self, name: str) -> dict[str, Any]:
        """Return the settings by which a framework's defaults differ from the function's.

        Raises:
            UsageError: this normalizer has no such preset.
        """
        if name not in self.presets:
            raise (
                unknown(f"preset of {self.name}", name, self.presets)
                if self.presets
                else UsageError(f"{self.name} has no presets: its defaults are the paper's")
            )
        return dict(self.presets[name])


NORMALIZERS: dict[str, Normalizer] = {}


def normalizer(
    *,
    family: Family = "other",
    state: Iterable[str] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    exact: Callable[..., dict[str, Array]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function under its own name; the arguments are the attributes of `Normalizer`.

    Args:
        family: see `Normalizer`.
        state: see `Normalizer`.
        presets: see `Normalizer`.
        exact: see `Normalizer`.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        checked = _checked(name, function)
        NORMALIZERS[name] = Normalizer(name, checked, family, tuple(state), presets or {}, exact)
        return checked

    return register


def gradient(of: str, *keys: str) -> Callable[[Callable[P, dict[str, Array]]], Callable[P, dict[str, Array]]]:
    """Register a vjp: (x, dy, settings) -> {"dx": …, …}, with these keys."""

    def register(function: Callable[P, dict[str, Array]]) -> Callable[P, dict[str, Array]]:
        checked = _checked(of, function)
        NORMALIZERS[of].vjp, NORMALIZERS[of].gradients = checked, keys
        return checked

    return register


def statistics(of: str, *keys: str) -> Callable[[Callable[P, dict[str, Array]]], Callable[P, dict[str, Array]]]:
    """Register the function of a normalizer's statistics: (x, settings) -> {"mean": …, …}, with these keys."""

    def register(function: Callable[P, dict[str, Array]]) -> Callable[P, dict[str, Array]]:
        checked = _checked(of, function)
        NORMALIZERS[of].statistics, NORMALIZERS[of].statistic_names = checked, keys
        return checked

    return register


def _checked(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that the settings all normalizers share are checked, and errors start with its name."""

    @functools.wraps(function)
    def call(*tensors: P.args, **settings: P.kwargs) -> R:
        with naming_errors(name), np.errstate(all="ignore"):  # x / 0 is inf or nan, as in torch
            _check_types(function, tensors, settings)
            _check_shared_settings(name, settings)
            return function(*tensors, **settings)

    return call


def _check_types(function: Callable[..., Any], tensors: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """Check that tensors are arrays, and settings the numbers that the function takes.

    Raises:
        TensorError: a list, a torch tensor, or no tensor at all.
        UsageError: a setting of another type.
    """
    for tensor in tensors:
        if not isinstance(getattr(tensor, "dtype", None), np.dtype):
            raise TensorError(f"a tensor must be a NumPy array, not {type(tensor).__module__}.{type(tensor).__name__}")
    kinds = function.__annotations__
    for name, value in settings.items():
        if (kind := kinds.get(name)) not in (int, float):
            continue
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            (index if kind is int else float)(value)
        except (TypeError, ValueError):
            kind_name = "an integer" if kind is int else "a number"
            raise UsageError(f"{name} must be {kind_name}, not {value!r:.60}") from None


def _check_shared_settings(name: str, settings: dict[str, Any]) -> None:
    """Check eps, update_rate, mode and the owner of a state; accept a layout in either case.

    Raises:
        UsageError: a value out of range.
        TensorError: a state of another normalizer.
    """
    eps, rate, mode, state = (settings.get(key) for key in ("eps", "update_rate", "mode", "state"))
    if eps is not None and not eps >= 0:
        raise UsageError(f"eps must be 0 or more, got {eps}")
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise UsageError(f"update_rate, the weight of the new value, must be 0 to 1, not {rate}")
    if mode not in (None, "train", "eval"):
        raise UsageError(f"mode must be train or eval, not {mode!r}")
    if state is not None and (owner := str(state.get("normalizer", name))) != name:
        raise TensorError(f"the state belongs to {owner}, not to {name}")
    if isinstance(settings.get("layout"), str):
        settings["layout"] = settings["layout"].upper()


@contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Prefix the errors raised inside by the name of a normalizer.

    Raises:
        NormcliError: Numba does not work here.
    """
    try:
        yield
    except (UsageError, TensorError) as error:
        error.args = (f"{name}: {error}",)
        raise
    except KernelUnavailable as error:
        raise NormcliError(f"normalizers need Numba, which does not work here: {error}") from error.__cause__


def find(name: str) -> Normalizer:
    """Return a normalizer by name; dashes and underscores are the same.

    >>> find("group-norm").name
    'group_norm'

    Raises:
        UsageError: no such normalizer; the nearest one is suggested.
    """
    plain = name.replace("-", "_")
    if plain not in NORMALIZERS:
        raise unknown("normalizer", plain, NORMALIZERS)
    return NORMALIZERS[plain]


SECTIONS = ("Formula", "Paper", "Axes", "State", "Torch", "Settings", "Raises")

# settings that mean the same wherever they occur; a docstring describes only what differs
SHARED_SETTINGS = {
    "layout": "order of the axes, required from rank 3 on: N samples, C channels, T tokens, L/D/H/W space",
    "mode": "train: use the statistics of the batch and update the running ones; eval: use the running ones, unchanged",
    "state": "running statistics to start from",
    "weight": "scale per channel (gamma), (C) or (N, C)",
    "bias": "shift per channel (beta), (C) or (N, C)",
    "eps": "added where the formula shows it",
    "update_rate": "weight of the new value in the running statistics (torch's momentum, 1 - Keras's)",
    "running_var": "running variance: unbiased, divided by m - 1 (torch), or biased, by m (Keras, flax, ONNX)",
    "cumulative": "keep the plain mean over all batches; update_rate is not used",
    "dtype": "type of the result: float16, bfloat16, float32 or float64 [default: the input's]",
}


@dataclass(frozen=True)
class Setting:
    """One setting as an option of the command line.

    Attributes:
        name: as in the function.
        kind: int, float, bool or str; or "file" where the function takes an array.
        default: of the function.
        required: it has no default, not even from a preset.
        choices: the values that it may have.
        help: one line.
    """

    name: str
    kind: type | Literal["file"]
    default: Any
    required: bool
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Description:
    """The parts of a normalizer's docstring, each as one text, and its settings."""

    summary: str
    sections: dict[str, str]
    settings: tuple[Setting, ...]


def describe(one: Normalizer) -> Description:
    """Return the parts of a normalizer's docstring and signature.

    >>> describe(find("rms_norm")).sections["Axes"]
    '`token`: C at every place; `image`: C and all of S; or numbers such as -1 or 2,3'
    >>> [setting.name for setting in describe(find("scale-norm")).settings]
    ['layout', 'scale', 'eps', 'dtype']
    """
    # python -OO drops docstrings: then nothing but the help is missing
    summary, *lines = (inspect.getdoc(one.function) or "\n").split(">>>")[0].splitlines()
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        title = re.fullmatch(r"(\w+):", line)
        if title and title[1] in SECTIONS:
            current = parts.setdefault(title[1], [])
        elif line.strip():
            current.append(line.strip())
    texts = dict(entry.split(": ", 1) for entry in parts.pop("Settings", []))
    parameters = inspect.signature(one.function).parameters
    names = [name for name in parameters if name != one.tensors[0]]
    assert not set(texts) - set(names), f"{one.name}: settings that do not exist: {set(texts) - set(names)}"
    texts = {name: texts.get(name) or (SHARED_SETTINGS[name] if summary else "") for name in names}
    settings = (_setting(parameters[name], texts[name], one) for name in names if name != "state")
    return Description(summary, {key: " ".join(value) for key, value in parts.items()}, tuple(settings))


def _setting(parameter: inspect.Parameter, text: str, one: Normalizer) -> Setting:
    kind, choices = _kind(parameter.annotation)
    required = parameter.default is parameter.empty
    return Setting(
        name=parameter.name,
        kind="file" if parameter.name in one.tensors else kind,
        default=None if required else parameter.default,
        required=required,
        choices=choices,
        help=text,
    )


def _kind(annotation: Any) -> tuple[type | Literal["file"], tuple[str, ...]]:
    """Return the type of an annotation, and its choices; `X | None` is X."""
    union = get_origin(annotation) in (Union, UnionType)
    first = next(a for a in (get_args(annotation) if union else (annotation,)) if a is not type(None))
    if get_origin(first) is Literal:
        return str, get_args(first)
    return (first, ()) if first in (int, float, bool, str) else ("file", ())


def format_default(value: Any) -> str:
    """Return a default as the command line takes it.

    >>> format_default(1e-05), format_default(True), format_default("train")
    ('1e-05', 'on', 'train')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
