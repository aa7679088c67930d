"""What a docstring says, in parts: for help, the table of the command line, and the documentation."""

import inspect
import re
from dataclasses import dataclass
from typing import Any

from normcli.tensor.normalizers.registry import Normalizer

SECTIONS = ("Formula", "Paper", "Axes", "State", "Torch", "Settings", "Raises")

# settings that mean the same wherever they occur; a docstring says only what differs
SHARED = {
    "layout": "order of the axes, required from rank 3 on: N samples, C channels, T tokens, L/D/H/W space",
    "mode": "train: statistics of the batch, the running ones move; eval: the running ones, unchanged",
    "state": "running statistics to start from",
    "weight": "scale per channel (gamma), (C) or (N, C)",
    "bias": "shift per channel (beta), (C) or (N, C)",
    "eps": "added where the formula shows it",
    "update_rate": "weight of the new value in the running statistics (torch's momentum, 1 - Keras's)",
    "running_var": "what enters the running variance: divided by m - 1 (torch) or by m (Keras, flax, ONNX)",
    "cumulative": "keep the plain mean over all batches; update_rate is not used",
    "dtype": "type of the result: float16, bfloat16, float32 or float64 [default: the input's]",
}


@dataclass(frozen=True)
class Description:
    """The parts of a normalizer's docstring, each as one text."""

    summary: str
    sections: dict[str, str]
    settings: dict[str, str]


def describe(normalizer: Normalizer) -> Description:
    """Take a docstring apart.

    >>> from normcli.tensor.normalizers import find
    >>> describe(find("rms_norm")).sections["Axes"]
    '`token`: C at every place; `image`: C and all of S; or numbers such as -1 or 2,3'
    """
    text = inspect.getdoc(normalizer.function) or ""
    lines = text.split(">>>")[0].splitlines()
    parts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines[1:]:
        found = re.fullmatch(r"(\w+):", line)
        if found and found[1] in SECTIONS:
            current = parts.setdefault(found[1], [])
        elif line.strip():
            current.append(line.strip())
    own = dict(entry.split(": ", 1) for entry in parts.pop("Settings", []))
    names = (*normalizer.tensors[1:], *normalizer.settings)
    settings = {name: own.pop(name, "") or SHARED[name] for name in names}
    assert not own, f"{normalizer.name}: settings that do not exist: {own}"
    return Description(lines[0], {key: " ".join(value) for key, value in parts.items()}, settings)


def shown_default(value: Any) -> str:
    """Give a default as the command line takes it.

    >>> shown_default(1e-05), shown_default(True), shown_default("train")
    ('1e-05', 'on', 'train')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
