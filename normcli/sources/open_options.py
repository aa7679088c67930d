"""Open options: settings that only one container knows, from `-O KEY=VALUE` or `normcli.source()`.

A container's module declares its own as a class `OPEN_OPTIONS`, whose fields carry their help and choices.
"""

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from normcli.errors import UsageError
from normcli.options.field import Options, choices_of, nearest, options_of, parse_pairs
from normcli.sources.containers import CONTAINERS, Container
from normcli.sources.listing import Source, kind_of

_DEEP = "color of 16 or 32 bits, multi-band TIFF, HEIC"
Pairs = Mapping[str, str] | Iterable[Any]


def source(path: str | os.PathLike[str], **open_options: str) -> Source:
    """Return a path with open options, which can be passed in place of any source.

    Args:
        path: of a container, local or remote.
        open_options: of this container; `normcli list formats` prints them.

    Raises:
        UsageError: the container has no such option, or not this value.
    """
    result = Source(os.fsdecode(path))
    result.open_options = dict(parse_pairs(open_options))
    check_open_options(result.open_options, [kind_of(result)])
    return result


def options_class(kind: str) -> type[Options]:
    """Return the class of a container's open options; an empty one for a container that has none."""
    module = importlib.import_module(f"normcli.sources.{kind}")
    options: type[Options] = getattr(module, "OPEN_OPTIONS", Options)
    return options


def open_options(kind: str, pairs: Pairs) -> Options:
    """Return the open options of a container, out of all those of a run.

    Args:
        kind: of container.
        pairs: keys and values; those that only other containers know are left out.

    Raises:
        UsageError: a key that no container knows, or a value that is not one of the choices.
    """
    options = options_class(kind)
    names = {f.name for f in options_of(options)}
    values = dict(parse_pairs(pairs))
    _refuse_unknown(key for key in values if key not in names)
    for key, choices in choices_of(options).items():
        if key in values and values[key].lower() in choices:
            values[key] = values[key].lower()
        elif key in values:
            hint = nearest(values[key], choices)
            raise UsageError(f"`open_options` {key}={values[key]}: must be one of {', '.join(choices)}{hint}")
    return options(**{key: value for key, value in values.items() if key in names})


def check_open_options(pairs: Pairs, kinds: Iterable[str]) -> None:
    """Validate open options before a source is read.

    Args:
        pairs: keys and values.
        kinds: containers of the run; each key must be known by one of them.

    Raises:
        UsageError: an unknown key or value, or a key that no source of the run takes.
    """
    values = dict(parse_pairs(pairs))
    if not values:
        return
    kinds = set(kinds)
    known: set[str] = set()
    for kind in sorted(kinds):
        open_options(kind, values)
        known |= {f.name for f in options_of(options_class(kind))}
    _refuse_unknown(values)
    for key, value in values.items():
        if key not in known:
            takers = [name for name, keys in _keys().items() if key in keys]
            open_options(takers[0], {key: value})
            raise UsageError(
                f"`open_options` {key}={value}: no source here has this option; it belongs to {', '.join(takers)}"
            )


def _keys() -> dict[str, set[str]]:
    return {kind: {f.name for f in options_of(options_class(kind))} for kind in ("folder", *CONTAINERS)}


def _refuse_unknown(keys: Iterable[str]) -> None:
    keys = list(keys)
    if not keys:
        return
    known = sorted(set().union(*_keys().values()))
    for key in keys:
        if key not in known:
            raise UsageError(
                f"`open_options` {key}: no container has this option"
                f"{nearest(key, known) or '; they are ' + ', '.join(known)}"
            )


class OpenOptionRow(NamedTuple):
    """One open option of a container.

    Attributes:
        name: as in `-O NAME=VALUE`.
        help: a sentence.
        choices: values it can have; () for any text.
        default: None where the container finds the value itself.
    """

    name: str
    help: str
    choices: tuple[str, ...]
    default: str | None


class FormatRow(NamedTuple):
    """One format that sources may have.

    Attributes:
        name: of the container.
        suffixes: of its files.
        help: a sentence.
        extra: the extra that it needs, as in `pip install "normcli[EXTRA]"`; "" for none.
        extra_for: the files that need it.
        options: its open options.
    """

    name: str
    suffixes: tuple[str, ...]
    help: str
    extra: str
    extra_for: str
    options: tuple[OpenOptionRow, ...]


def _text(default: object) -> str | None:
    return default if isinstance(default, str) else None


def describe_formats() -> list[FormatRow]:
    """Return one row for image files and one for every container, with its open options."""
    from normcli.sources.folder import SUFFIXES

    image = Container("", tuple(sorted(SUFFIXES)), "Image files, alone or in and below a folder.", "tiff,heif", _DEEP)
    rows = []
    for kind, entry in {"image": image, **CONTAINERS}.items():
        options = options_class("folder" if kind == "image" else kind)
        choices = choices_of(options)
        described = tuple(
            OpenOptionRow(f.name, f.help, choices.get(f.name, ()), _text(f.default)) for f in options_of(options)
        )
        rows.append(FormatRow(kind, entry.suffixes, entry.help, entry.extra, entry.extra_for, described))
    return rows
