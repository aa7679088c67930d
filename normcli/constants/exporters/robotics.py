"""Exporters for robot learning: statistics files, which have no comments."""

import json
from collections.abc import Sequence

from normcli.constants.exporters.values import DatasetConstants

_QUANTILES = {"q01": "1", "q10": "10", "q50": "50", "q90": "90", "q99": "99"}
_OPENPI = {"observation.state": "state", "action": "actions"}  # the keys after its repacking of LeRobot's


def lerobot(constants: DatasetConstants) -> str:
    """Write stats.json: of vectors an entry for each feature; of images that of a camera, 0-1, channels first."""
    is_vector = constants.is_vector
    if not is_vector:
        constants.require_8bit("lerobot")
    rows = {"min": constants.extremes("lerobot")[0], "max": constants.extremes("lerobot")[1]}
    rows |= {"mean": constants.unit_mean, "std": constants.unit_std}
    rows |= zip(_QUANTILES, constants.percentiles(*_QUANTILES.values()), strict=True)
    count: dict[str, Sequence[float]] = {"count": [constants.images]}
    if is_vector:
        features = {name: _entry(constants, rows, places) | count for name, places in _features(constants).items()}
        return json.dumps(features, indent=4) + "\n"
    entry: dict[str, object] = {name: [[[value]] for value in constants.rounded(row)] for name, row in rows.items()}
    return json.dumps({"observation.image": {**entry, **count}}, indent=4) + "\n"


def openpi(constants: DatasetConstants) -> str:
    """Write norm_stats.json: mean, std and the quantiles q01 and q99, of vectors as stored, of images in 0-1."""
    low, high = constants.percentiles("1", "99")
    rows = {"mean": constants.unit_mean, "std": constants.unit_std, "q01": low, "q99": high}
    features = _features(constants) if constants.is_vector else {"image": range(len(constants.mean))}
    entries = {_OPENPI.get(name, name): _entry(constants, rows, places) for name, places in features.items()}
    return json.dumps({"norm_stats": entries}, indent=2) + "\n"


def _features(constants: DatasetConstants) -> dict[str, list[int]]:
    """Return the positions of the components of each feature."""
    features: dict[str, list[int]] = {}
    for place, name in enumerate(constants.channels):
        feature = "vector" if name.isdecimal() else name.partition("[")[0]
        features.setdefault(feature, []).append(place)
    return features


def _entry(
    constants: DatasetConstants, rows: dict[str, list[float]], places: Sequence[int]
) -> dict[str, Sequence[float]]:
    """Return the values of some components by the name of their row."""
    return {name: [constants.rounded(row)[place] for place in places] for name, row in rows.items()}
