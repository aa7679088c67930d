"""Exporters for robot learning: statistics files, which have no comments."""

import json

from normcli.constants.exporters.values import DatasetConstants


def lerobot(constants: DatasetConstants) -> str:
    """Write the entry of a camera in stats.json: 0-1, channels first, with quantiles and the number of images."""
    constants.require_8bit("lerobot")
    rows = {"min": constants.extremes("lerobot")[0], "max": constants.extremes("lerobot")[1]}
    rows |= {"mean": constants.unit_mean, "std": constants.unit_std}
    rows |= zip(("q01", "q10", "q50", "q90", "q99"), constants.percentiles("1", "10", "50", "90", "99"), strict=True)
    entry: dict[str, object] = {name: [[[value]] for value in constants.rounded(row)] for name, row in rows.items()}
    return json.dumps({"observation.image": {**entry, "count": [constants.images]}}, indent=4) + "\n"


def openpi(constants: DatasetConstants) -> str:
    """Write norm_stats.json: mean, std and the quantiles q01 and q99 in 0-1."""
    low, high = (constants.rounded(row) for row in constants.percentiles("1", "99"))
    entry = {"mean": constants.unit_mean, "std": constants.unit_std, "q01": low, "q99": high}
    return json.dumps({"norm_stats": {"image": entry}}, indent=2) + "\n"
