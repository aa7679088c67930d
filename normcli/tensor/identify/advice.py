"""Settings that an input leaves open, and the input that would separate them."""

from collections.abc import Iterator, Sequence

import numpy as np

from normcli.tensor.identify.laws import Epsilon
from normcli.tensor.identify.readings import Pair
from normcli.tensor.identify.results import Fit, Open, format_eps

CONSTANT = (
    "X is constant: every normalizer that subtracts a mean returns its bias, whatever else it does "
    "(use an input whose elements differ)"
)

UNCHANGED = "Y equals X: it was not normalized"


def is_constant(pair: Pair) -> bool:
    """Return True if the finite elements of X are all equal."""
    finite = pair.x[np.isfinite(pair.x)]
    return not finite.size or bool(finite.min() == finite.max())


def remarks_on_input(pair: Pair) -> tuple[str, ...]:
    """Return remarks on elements that cannot be used."""
    count = int(np.count_nonzero(~np.isfinite(pair.x) | ~np.isfinite(pair.y)))
    if not count:
        return ()
    return (f"{count:,} of {pair.x.size:,} elements are NaN or infinite in X or Y; their sets are left out",)


def open_settings(pair: Pair, fits: Sequence[Fit]) -> Iterator[Open]:
    """Yield the settings that the fits leave open, with the input that would separate its values."""
    titles = list(dict.fromkeys(fit.title for fit in fits))
    if len(titles) > 1:
        yield Open(setting="normalizer", values=tuple(titles), remedy=_remedy_for_names(pair, fits))
    epsilons = [fit.eps for fit in fits if fit.eps is not None]
    values = tuple(dict.fromkeys(format_eps(eps) for eps in epsilons))
    if len(values) > 1 or not all(eps.seen for eps in epsilons):
        yield Open(setting="eps", values=values, remedy=_remedy_for_eps(epsilons))
    elif any(fit.eps is None for fit in fits) and any(_mode(fit) == "eval" for fit in fits):
        yield Open(setting="eps", values=("any",), remedy="use the running statistics with --state")
    for setting, remedy in (
        ("variance", "an input with fewer elements in each statistic, or Y in a type of more digits"),
        ("weight", "another weight: with this one they are the same"),
        ("rounding", "an input with more elements"),
        ("arithmetic", "an input with more elements"),
    ):
        texts = tuple(dict.fromkeys(str(getattr(fit, setting)) for fit in fits))
        if len(texts) > 1 and len(titles) == 1:
            yield Open(setting=setting, values=texts, remedy=remedy)
    absorbed = tuple(dict.fromkeys(text for fit in fits for text in fit.absorbed))
    if absorbed:
        yield Open(setting="absorbed by the weight", values=absorbed, remedy="use --weight and --bias")


def _mode(fit: Fit) -> str:
    return str(fit.settings.get("mode", ""))


def _remedy_for_names(pair: Pair, fits: Sequence[Fit]) -> str:
    modes = {_mode(fit) for fit in fits if fit.name == "batch_norm"}
    if modes == {"train", "eval"}:
        return "use --weight and --bias, or --state, or a second batch"
    signatures = {fit.signature for fit in fits}
    short = [a for a, length in enumerate(pair.x.shape) if length == 1]
    if len(signatures) == 1 and short:
        axes = " and ".join(map(str, short))
        return f"an input longer than 1 along axis {axes}: here both have the same sets of elements"
    if all(fit.weight == "solved" for fit in fits):
        return "use --weight and --bias, or an input with more samples"
    return "an input with more elements, whose sets differ more in mean and in scale"


def _remedy_for_eps(epsilons: Sequence[Epsilon]) -> str:
    if any(eps.place is None or not eps.seen for eps in epsilons):
        values = [eps.high for eps in epsilons if np.isfinite(eps.high)]
        if values:
            return (
                f"an input some of whose sets are small, of root mean square {np.sqrt(max(values)) / 10:.1g} or less: "
                "there epsilon changes the result most"
            )
    return "an input whose sets differ in scale, some near the square root of epsilon and some far above it"
