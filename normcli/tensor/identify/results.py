"""Results of an identification: candidates that fit, the nearest others, and an input that would separate them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from normcli.tensor.identify.laws import PLACES, Epsilon
from normcli.tensor.identify.names import Title
from normcli.tensor.normalizers.views import Array

Verdict = Literal["named", "ambiguous", "none"]


class Agreement(NamedTuple):
    """The agreement of Y with a result.

    Attributes:
        ulp: largest distance in units in the last place.
        level_ulp: the same in those of the root mean square of Y: small results have the errors of larger terms.
        equal: share of the elements that are equal, bit for bit.
    """

    ulp: float = math.nan
    level_ulp: float = math.nan
    equal: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A normalizer with its settings that maps X to Y.

    Attributes:
        names: with settings, the usual name first; the others are the same function.
        eps: range and place; None for a normalizer without one.
        variance: biased or unbiased, None without one.
        weight: none, weight, 1 + weight, not used, or solved.
        rounding: of float16 and bfloat16: once, before the affine, after every step; None where it makes no difference.
        arithmetic: type of the statistics, float32 or more, or the half type itself.
        clipped: negative results were replaced by 0.
        agreement: of Y with this normalizer's result.
        solved: arrays that were solved for, such as weight and bias.
        absorbed: settings that a weight that was solved for leaves open.
        signature: of the sets of elements, to see which names differ only by the shape of this tensor.
    """

    names: tuple[Title, ...]
    eps: Epsilon | None = None
    variance: str | None = None
    weight: str = "none"
    rounding: str | None = None
    arithmetic: str = "float32 or more"
    clipped: bool = False
    agreement: Agreement = field(default_factory=Agreement)
    solved: Mapping[str, Array] = field(default_factory=dict)
    absorbed: tuple[str, ...] = ()
    signature: Any = None

    @property
    def name(self) -> str:
        """Return the usual name."""
        return self.names[0][0]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the usual name."""
        return self.names[0][1]

    @property
    def title(self) -> str:
        """Return name and settings as one text.

        >>> Fit(names=(("layer_norm", {"axes": "2,3"}),)).title
        'layer_norm axes=2,3'
        """
        return format_title(self.names[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain data."""
        eps = self.eps
        return {
            "name": self.name,
            "settings": {key: plain(value) for key, value in self.settings.items()},
            "same_function": [format_title(title) for title in self.names[1:]],
            "eps": None if eps is None else eps.value,
            "eps_range": None if eps is None else [eps.low, plain(eps.high)],
            "eps_place": None if eps is None else eps.place,
            "variance": self.variance,
            "weight": self.weight,
            "rounding": self.rounding,
            "arithmetic": self.arithmetic,
            "clipped": self.clipped,
            "max_ulp": plain(self.agreement.ulp),
            "max_ulp_of_level": plain(self.agreement.level_ulp),
            "equal": plain(self.agreement.equal),
            "solved": {key: value.ravel().tolist() for key, value in self.solved.items()},
        }


def plain(value: Any) -> Any:
    """Return a number as JSON has it: None for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_title(title: Title) -> str:
    """Return name and settings as one text."""
    return " ".join([title[0], *(f"{key}={value}" for key, value in title[1].items())])


@dataclass(frozen=True, kw_only=True)
class Open:
    """A setting that this input leaves open.

    Attributes:
        setting: its name.
        values: those that fit alike.
        remedy: the input that would separate its values.
    """

    setting: str
    values: tuple[str, ...]
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"setting": self.setting, "values": list(self.values), "remedy": self.remedy}


@dataclass(frozen=True, kw_only=True)
class Near:
    """A normalizer that does not map X to Y, and where it departs.

    Attributes:
        title: name and settings.
        error: root mean square of the difference, relative to that of Y.
        share: of the elements that agree.
        first: index of the first element that does not.
        worst: index of the largest difference.
        y: there, in Y.
        expected: there.
    """

    title: str
    error: float
    share: float
    first: tuple[int, ...]
    worst: tuple[int, ...]
    y: float
    expected: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        values = {"error": plain(self.error), "y": plain(self.y), "expected": plain(self.expected)}
        return {
            "title": self.title,
            "share": self.share,
            "first": list(self.first),
            "worst": list(self.worst),
            **values,
        }


@dataclass(frozen=True, kw_only=True)
class Identification:
    """The normalizers that map X to Y.

    Attributes:
        fits: every normalizer with its settings that fits; all fit alike.
        open: settings on which they differ, or whose range leaves several values.
        nearest: where none fits, the nearest first.
        remarks: on the input, or on assumptions.
    """

    fits: tuple[Fit, ...]
    open: tuple[Open, ...]
    nearest: tuple[Near, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Return named where one normalizer fits, with one set of axes and groups."""
        titles = {fit.title for fit in self.fits}
        return "none" if not titles else "named" if len(titles) == 1 else "ambiguous"

    @property
    def certain(self) -> bool:
        """Return True if one normalizer fits and none of its settings is open."""
        return self.verdict == "named" and not self.open

    def to_dict(self) -> dict[str, Any]:
        """Return the identification as plain data."""
        return {
            "verdict": self.verdict,
            "certain": self.certain,
            "fits": [fit.to_dict() for fit in self.fits],
            "open": [one.to_dict() for one in self.open],
            "nearest": [near.to_dict() for near in self.nearest],
            "remarks": list(self.remarks),
        }


def format_eps(eps: Epsilon) -> str:
    """Return an epsilon with its place as text.

    >>> format_eps(Epsilon(9.9e-6, 1.01e-5, "inside")), format_eps(Epsilon(0.0, 2.5e-9, None, 5e-5))
    ('1e-05 inside the root: sqrt(s^2 + eps)', 'too small to see: up to 2.5e-09 inside the root or 5e-05 outside it')
    """
    if eps.place is None:
        return f"too small to see: up to {eps.high:.2g} inside the root or {eps.outside_high:.2g} outside it"
    value = f"{eps.value:.6g}" if eps.seen else f"{eps.low:.3g} to {eps.high:.3g}"
    where = {"inside": "inside the root", "outside": "outside the root"}.get(eps.place, f"as a {eps.place}")
    return f"{value} {where}: {PLACES[eps.place]}"
