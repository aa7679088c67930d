"""Lists of all normalizers: rows for the command line, and docs/normalizers.md."""

import sys
from collections.abc import Sequence
from pathlib import Path

from normcli.tensor.normalizers import NORMALIZERS, Normalizer
from normcli.tensor.normalizers.registry import Description, Setting, describe, format_default

# family -> heading of its commands in the help
FAMILIES = {
    "batch": "Statistics of a batch",
    "layer": "Statistics of a sample or token",
    "weight": "Weights",
    "other": "Other",
}


def names() -> list[str]:
    """Return the names of all normalizers, in alphabetical order."""
    return sorted(NORMALIZERS)


def rows() -> list[tuple[str, str, str]]:
    """Return command, family and summary of every normalizer, by family and name.

    >>> rows()[0]
    ('batch-instance-norm', 'batch', 'Mix batch and instance normalization, each channel by its own share.')
    """
    ordered = sorted(NORMALIZERS.values(), key=lambda one: (list(FAMILIES).index(one.family), one.name))
    return [(one.name.replace("_", "-"), one.family, describe(one).summary) for one in ordered]


def document() -> str:
    """Return docs/normalizers.md: every normalizer with formula, paper, axes, state, presets and settings."""
    lines = [
        "# Normalizers",
        "",
        "Made by `python -m normcli.tensor.catalog` from the docstrings; do not edit by hand.",
        "",
        "Each is a function of `normcli.tensor.normalizers` and a command of `normcli tensor`, with the same settings.",
        "`x` is the tensor; a result has the type of `x` (float32 for integers) or `--dtype`. Statistics are float64,",
        "and a result is rounded once, at its end.",
        "",
        "| name | what it does | state | gradient |",
        "|---|---|---|---|",
    ]
    entries = [(NORMALIZERS[name], describe(NORMALIZERS[name])) for name in names()]
    for one, text in entries:
        marks = ("yes" if one.state else "", "yes" if one.vjp else "")
        lines.append(f"| [{one.name}](#{one.name}) | {text.summary} | {marks[0]} | {marks[1]} |")
    for one, text in entries:
        lines += ["", f"## {one.name}", "", text.summary, "", "| | |", "|---|---|"]
        lines += [
            f"| {key} | {_cell(value, code=key in ('Formula', 'Torch'))} |" for key, value in text.sections.items()
        ]
        if "Torch" not in text.sections:
            lines.append("| Torch | no single call |")
        lines.append(f"| Presets | {_presets(one) or 'none'} |")
        lines.append(f"| Command | `{_example(one, text)}` |")
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [f"| `{s.name}` | {_default(s)} | {_cell(_meaning(s))} |" for s in text.settings]
    return "\n".join(lines) + "\n"


def _cell(text: str, *, code: bool = False) -> str:
    plain = text.replace("|", "\\|")
    return f"`{plain}`" if code and "`" not in plain else plain


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "" if setting.default is None else f"`{format_default(setting.default)}`"


def _meaning(setting: Setting) -> str:
    return setting.help + (f" ({', '.join(setting.choices)})" if setting.choices else "")


def _presets(one: Normalizer) -> str:
    texts = []
    for name, values in one.presets.items():
        changes = ", ".join(f"{key} {format_default(value)}" for key, value in values.items())
        texts.append(f"{name}: {changes or 'the defaults'}")
    return "; ".join(texts)


def _example(one: Normalizer, text: Description) -> str:
    settings = {s.name: s for s in text.settings}
    parts = [f"normcli tensor {one.name.replace('_', '-')} x.npy"]
    if "layout" in settings:
        parts.append("--layout NCHW")
    for setting in settings.values():
        if setting.required:
            parts.append(f"--{setting.name.replace('_', '-')} {'w.npy' if setting.kind == 'file' else 8}")
    if one.name in ("layer_norm", "rms_norm"):
        parts.append("--axes image")
    return " ".join([*parts, "-o y.npy"])


def main(arguments: Sequence[str]) -> None:
    """Write the document to a file, or to stdout."""
    if arguments:
        Path(arguments[0]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    main(sys.argv[1:])
