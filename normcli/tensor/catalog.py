"""The normalizers as a list of commands: names, settings and texts, read from signatures and docstrings."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from normcli.tensor.normalizers import NORMALIZERS, Normalizer, find
from normcli.tensor.normalizers.axes import Axes
from normcli.tensor.normalizers.describe import Description, describe, shown_default


@dataclass(frozen=True)
class Setting:
    """One setting as an option of the command line.

    Attributes:
        name: as in the function.
        kind: int, float, bool or str; or "file" where the function takes an array.
        default: what the function takes if nothing is said.
        required: it has no default, not even from a preset.
        choices: the words that it may be.
        help: one line.
    """

    name: str
    kind: Any
    default: Any
    required: bool
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Entry:
    """One normalizer as a command."""

    name: str
    summary: str
    sections: dict[str, str]
    settings: tuple[Setting, ...]
    presets: tuple[str, ...]
    stateful: bool
    recomputable: bool
    differentiable: bool


def names() -> list[str]:
    """Name all normalizers, in alphabetical order."""
    return sorted(NORMALIZERS)


def entry(name: str) -> Entry:
    """Give a normalizer as a command.

    >>> [setting.name for setting in entry("scale-norm").settings]
    ['layout', 'scale', 'eps', 'dtype']

    Raises:
        UsageError: no such normalizer.
    """
    one = find(name)
    text = describe(one)
    parameters = inspect.signature(one.function).parameters
    wanted = [n for n in parameters if n not in ("state", one.tensors[0])]
    return Entry(
        name=one.name,
        summary=text.summary,
        sections=text.sections,
        settings=tuple(_setting(parameters[n], text, one) for n in wanted),
        presets=tuple(one.presets),
        stateful=bool(one.state),
        recomputable=one.exact is not None,
        differentiable=one.vjp is not None,
    )


def _setting(parameter: inspect.Parameter, text: Description, one: Normalizer) -> Setting:
    kind, choices = _kind(parameter.annotation)
    empty = parameter.default is parameter.empty
    return Setting(
        name=parameter.name,
        kind="file" if parameter.name in one.tensors else kind,
        default=None if empty else parameter.default,
        required=empty,
        choices=choices,
        help=text.settings[parameter.name],
    )


def _kind(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    if annotation in (Axes, Axes | None):
        return str, ()
    members = (
        [a for a in get_args(annotation) if a is not type(None)]
        if get_origin(annotation) in (Union, UnionType)
        else [annotation]
    )
    only = members[0]
    if get_origin(only) is Literal:
        return str, get_args(only)
    return (only, ()) if only in (int, float, bool, str) else ("file", ())


def document() -> str:
    """Write docs/normalizers.md: every normalizer with formula, paper, axes, state, presets and settings."""
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
    entries = [entry(name) for name in names()]
    for one in entries:
        marks = ("yes" if one.stateful else "", "yes" if one.differentiable else "")
        lines.append(f"| [{one.name}](#{one.name}) | {one.summary} | {marks[0]} | {marks[1]} |")
    for one in entries:
        lines += ["", f"## {one.name}", "", one.summary, "", "| | |", "|---|---|"]
        lines += [
            f"| {key} | {_cell(value, code=key in ('Formula', 'Torch'))} |" for key, value in one.sections.items()
        ]
        if "Torch" not in one.sections:
            lines.append("| Torch | no single call |")
        lines.append(f"| Presets | {_presets(find(one.name)) or 'none'} |")
        lines.append(f"| Command | `{_example(one)}` |")
        lines += ["", "| setting | default | meaning |", "|---|---|---|"]
        lines += [f"| `{s.name}` | {_default(s)} | {_cell(_meaning(s))} |" for s in one.settings]
    return "\n".join(lines) + "\n"


def _cell(text: str, *, code: bool = False) -> str:
    plain = text.replace("|", "\\|")
    return f"`{plain}`" if code and "`" not in plain else plain


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "" if setting.default is None else f"`{shown_default(setting.default)}`"


def _meaning(setting: Setting) -> str:
    return setting.help + (f" ({', '.join(setting.choices)})" if setting.choices else "")


def _presets(one: Normalizer) -> str:
    told = []
    for name, values in one.presets.items():
        said = ", ".join(f"{k} {shown_default(v)}" for k, v in values.items()) or "the defaults"
        told.append(f"{name}: {said}")
    return "; ".join(told)


def _example(one: Entry) -> str:
    words = [f"normcli tensor {one.name.replace('_', '-')} x.npy"]
    if any(s.name == "layout" for s in one.settings):
        words.append("--layout NCHW")
    words += [f"--{s.name.replace('_', '-')} {'w.npy' if s.kind == 'file' else 8}" for s in one.settings if s.required]
    if any(s.name == "axes" for s in one.settings) and one.name in ("layer_norm", "rms_norm"):
        words.append("--axes image")
    return " ".join([*words, "-o y.npy"])


def main(arguments: Sequence[str]) -> None:
    """Write the document to a file, or to stdout."""
    import sys
    from pathlib import Path

    if arguments:
        Path(arguments[0]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
