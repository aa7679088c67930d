"""The table of normalizers: each enters it where it is defined, by a decorator that leaves it as it is."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from normcli.errors import UsageError, unknown
from normcli.tensor.normalizers.blocks import Array
from normcli.tensor.normalizers.moments import Moments

F = TypeVar("F", bound=Callable[..., Any])

State = Mapping[str, Array]


class Normalized(NamedTuple):
    """The result of a normalizer with running statistics: the tensor, and the state after it."""

    y: Any
    state: dict[str, Array]


@dataclass
class Normalizer:
    """A normalizer and what others need to know of it."""

    name: str
    function: Callable[..., Any]
    state: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exact: Callable[..., dict[str, Array]] | None = None
    vjp: Callable[..., dict[str, Array]] | None = None

    @property
    def settings(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of the function."""
        parameters = inspect.signature(self.function).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors it takes by position."""
        parameters = inspect.signature(self.function).parameters
        return tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)

    def preset(self, name: str) -> dict[str, Any]:
        """Give the settings by which a framework's defaults differ from the function's.

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
    state: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    exact: Callable[..., dict[str, Array]] | None = None,
) -> Callable[[F], F]:
    """Register a function under its own name.

    Args:
        state: names of its running statistics.
        presets: framework -> settings that differ from the function's defaults.
        exact: makes the state from the moments of whole channels, for precise statistics.
    """

    def register(function: F) -> F:
        name = function.__name__
        NORMALIZERS[name] = Normalizer(name, function, state, presets or {}, exact)
        return function

    return register


def gradient(of: str) -> Callable[[F], F]:
    """Register a vjp: (x, dy, settings) -> {"dx": …, "dweight": …, …}."""

    def register(function: F) -> F:
        NORMALIZERS[of].vjp = function
        return function

    return register


def find(name: str) -> Normalizer:
    """Find a normalizer by name; dashes and underscores are the same.

    >>> find("group-norm").name
    'group_norm'

    Raises:
        UsageError: no such normalizer; the nearest one is suggested.
    """
    plain = name.replace("-", "_")
    if plain not in NORMALIZERS:
        raise unknown("normalizer", plain, NORMALIZERS)
    return NORMALIZERS[plain]


__all__ = ["NORMALIZERS", "Moments", "Normalized", "Normalizer", "State", "find", "gradient", "normalizer"]
