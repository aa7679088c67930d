"""Exporters to formats of no framework, and Kaldi's matrix."""

from normcli.constants.exporters import quote
from normcli.constants.exporters.values import DatasetConstants


def csv(constants: DatasetConstants) -> str:
    """Write one row per channel: channel,mean,std,range,convention."""
    rows = ["channel,mean,std,range,convention"]
    is_scaled = constants.source is not None and "scale" in constants.source.composition
    units = "stored" if is_scaled else "raw" if constants.is_raw else "0-1"  # without scale and offset
    for name, mean, std in zip(constants.channels, constants.unit_mean, constants.unit_std, strict=True):
        rows.append(f"{quote.csv_field(name)},{mean!r},{std!r},{units},{quote.csv_field(constants.convention)}")
    return "\n".join(rows) + "\n"


def yaml(constants: DatasetConstants) -> str:
    """Write a mapping of mean, std, channels, range, convention."""
    return f"# {_comment(constants)}\n" + "".join(f"{key}: {value}\n" for key, value in _pairs(constants))


def toml(constants: DatasetConstants) -> str:
    """Write mean, std, channels, range, convention as TOML."""
    return f"# {_comment(constants)}\n" + "".join(f"{key} = {value}\n" for key, value in _pairs(constants))


def env(constants: DatasetConstants) -> str:
    """Write shell variables, with values separated by spaces, for `eval` and `docker --env-file`-like uses."""
    rows = [f"# {_comment(constants)}", f"DATASET_MEAN='{_spaced(constants.unit_mean)}'"]
    rows += [
        f"DATASET_STD='{_spaced(constants.unit_std)}'",
        f"DATASET_CHANNELS={quote.shell(' '.join(constants.channels))}",
    ]
    return "\n".join(rows) + "\n"


def markdown(constants: DatasetConstants) -> str:
    """Write a section for a dataset card: a table of all channels, and mean and std to copy."""
    low, high = (
        ["-"] * len(constants.channels) if row is None else [f"{v!r}" for v in row] for row in _range(constants)
    )
    percents = ("0.5", "50", "99.5")
    columns = [constants.unit_mean, constants.unit_std, *map(constants.rounded, constants.percentiles(*percents))]
    rows = zip(constants.channels, zip(*columns, strict=True), low, high, strict=True)
    cells = [
        [quote.markdown(name), *map(repr, numbers[:2]), a, *map(repr, numbers[2:]), b] for name, numbers, a, b in rows
    ]
    header = ["channel", "mean", "std", "min", *(f"{p}%" for p in percents), "max"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *cells]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"""\
## Pixel statistics

{quote.markdown(_comment(constants))}.

{table}
```yaml
mean: {_list([quote.real(value) for value in constants.unit_mean])}
std: {_list([quote.real(value) for value in constants.unit_std])}
```
"""


def _range(constants: DatasetConstants) -> list[list[float] | None]:
    """Return minima and maxima, rounded; None if they are not known."""
    rows = (constants.min, constants.max)
    return [None if None in row else constants.rounded([v for v in row if v is not None]) for row in rows]


def kaldi(constants: DatasetConstants) -> str:
    """Write a CMVN statistics matrix: sums and the count, then sums of squares and 0.

    Kaldi computes mean = sum/count and variance = squares/count - mean^2 from it.
    """
    constants.require_nonzero_std("kaldi")
    count = constants.pixels
    sums = [mean * count for mean in constants.mean]
    squares = [(std * std + mean * mean) * count for mean, std in zip(constants.mean, constants.std, strict=True)]
    sums, squares = constants.rounded(sums), constants.rounded(squares)
    return f" [\n  {_spaced([*sums, count])}\n  {_spaced([*squares, 0])} ]\n"


def _pairs(constants: DatasetConstants) -> list[tuple[str, str]]:
    # lists of numbers, lists of strings and strings are written alike in YAML and TOML
    return [
        ("mean", _list([quote.real(value) for value in constants.unit_mean])),
        ("std", _list([quote.real(value) for value in constants.unit_std])),
        ("channels", _list([quote.double_quoted(name) for name in constants.channels])),
        ("range", quote.double_quoted("raw" if constants.is_raw else "0-1")),
        ("convention", quote.double_quoted(constants.convention)),
    ]


def _list(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def _comment(constants: DatasetConstants) -> str:
    return f"{constants.description}; {constants.range}, {constants.channel_order}"


def _spaced(values: list[float]) -> str:
    return " ".join(map(repr, values))
