"""Option definitions: one dataclass field carries an option's name, type, default, help and choices.

The command line, the Python API, shell completion, environment names, configuration files and the manual are all
built from these fields.
"""

import difflib
import inspect
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from normcli.errors import UsageError

O = TypeVar("O", bound="Options")  # noqa: E741


@dataclass(frozen=True)
class OptionInfo:
    """The part of an option that its name, type and default do not say.

    Attributes:
        help: a full sentence: what it does, its unit, what each choice does.
        metavar: placeholder in the help; None derives it from the type.
        flags: names on the command line, such as ("-j", "--workers"); () derives them from the field's name.
        panel: heading in the help under which the option stands; "" takes that of its class.
        complete: the values that the shell completes, or the name of a table of them ("presets").
        cli: False for what only Python code can pass, such as callbacks.
        hidden: True for options that the help describes with another option.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    panel: str = ""
    complete: str | tuple[str, ...] = ()
    cli: bool = True
    hidden: bool = False


def option(
    help: str,
    default: Any = None,
    *,
    metavar: str | None = None,
    flags: tuple[str, ...] = (),
    panel: str = "",
    complete: str | tuple[str, ...] = (),
    hidden: bool = False,
) -> Any:
    """Return a dataclass field for an option of the command line and the Python API."""
    info = OptionInfo(help, metavar, flags, panel, complete, hidden=hidden)
    return field(default=default, metadata={"option": info})


def python_only(help: str, default: Any = None) -> Any:
    """Return a dataclass field for what only Python code can pass."""
    return field(default=default, metadata={"option": OptionInfo(help, cli=False)}, compare=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all groups of options; checks every field whose type is a `Literal`, one plain type, or one and None.

    Raises:
        UsageError: a value that is not one of the choices, or not of the type.
    """

    panel = "Options"

    def __post_init__(self) -> None:
        for name, choices in choices_of(type(self)).items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UsageError(
                    f"`{name}`: must be one of {', '.join(choices)}, not {value!r}{nearest(value, choices)}"
                )
        for name, plain in plain_types_of(type(self)).items():
            value = getattr(self, name)
            if value is not None and type(value) is not plain:
                self._set(name, _as_plain(name, value, plain))

    def part(self, kind: type[O]) -> O:
        """Return the options of one group, such as `DecodeOptions`, out of a larger set."""
        return kind(**{f.name: getattr(self, f.name) for f in fields(kind)})

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _require_at_least_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}`: must be at least 1, not {value}")


def nearest(value: object, names: Iterable[str]) -> str:
    """Return a suggestion for a misspelled name, to be appended to an error; "" where none is near.

    >>> nearest("grey", ["rgb", "gray"])
    " (did you mean 'gray'?)"
    """
    near = difflib.get_close_matches(str(value).lower(), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def info_of(item: "Field[Any]") -> OptionInfo:
    """Return the option's description that a dataclass field carries."""
    info = item.metadata["option"]
    assert isinstance(info, OptionInfo), item.name
    return info


_choices: dict[type, Mapping[str, tuple[str, ...]]] = {}


def choices_of(kind: type[Options]) -> Mapping[str, tuple[str, ...]]:
    """Return the choices of every field whose type is a `Literal`, by name."""
    if kind not in _choices:
        hints = get_type_hints(kind)
        _choices[kind] = {f.name: choices for f in fields(kind) if (choices := _literals(hints[f.name]))}
    return _choices[kind]


_plain_types: dict[type, Mapping[str, type]] = {}
_PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def plain_types_of(kind: type[Options]) -> Mapping[str, type]:
    """Return the type of every field that is bool, int, float or str, or one of them and None, by name."""
    if kind not in _plain_types:
        hints = get_type_hints(kind)
        parts = {f.name: set(get_args(hints[f.name]) or (hints[f.name],)) - {type(None)} for f in fields(kind)}
        _plain_types[kind] = {name: one for name, (one, *more) in parts.items() if not more and one in _PLAIN}
    return _plain_types[kind]


def _as_plain(name: str, value: Any, plain: type) -> Any:
    """Return a value as the plain type that stands for it, such as NumPy's integers as int.

    Raises:
        UsageError: a value of another type, which would be taken for something else or fail far from here.
    """
    kind = type(value)
    numeric = kind is not bool and kind.__name__ not in ("bool", "bool_") and hasattr(kind, "__index__")
    if plain is int and numeric:
        return int(value.__index__())
    if plain is float and (numeric or (hasattr(kind, "__float__") and kind.__name__ not in ("bool", "bool_"))):
        with suppress(TypeError, ValueError):  # an array of several values
            return float(value)
    if plain is bool and kind.__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, plain) and plain is str:
        return value
    raise UsageError(f"`{name}`: must be {_PLAIN[plain]}, not {value!r}")


def _literals(hint: Any) -> tuple[str, ...]:
    """Return a Literal's values; () where the type allows anything else than them and None."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        return _literals(parts[0]) if len(parts) == 1 else ()
    return ()


def make(kind: type[O], function: str, keywords: Mapping[str, Any]) -> O:
    """Return an options object from keywords.

    Raises:
        TypeError: an unknown keyword; the message suggests the nearest one.
        UsageError: a value that is not allowed.
    """
    names = [f.name for f in fields(kind)]
    for name in keywords:
        if name not in names:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{nearest(name, names)}")
    return kind(**keywords)


def parameters_of(kind: type[Options]) -> list[inspect.Parameter]:
    """Return the keyword parameters of a function that takes these options."""
    hints = get_type_hints(kind)
    return [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(kind)
    ]


def document(kind: type[Options]) -> str:
    """Return the lines of a docstring's "Args" section that describe these options."""
    return "".join(f"    {f.name}: {info_of(f).help}\n" for f in fields(kind))
