"""Option definitions: one field of a class carries an option's name, type, default, help and choices.

The command line, the Python API, shell completion, environment names, configuration files and the manual are all
built from these fields. The parsers of values that are written as text, such as sizes and shards, come first.
"""

import difflib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

from normcli.errors import UsageError, unknown

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(name: str, value: str | int | None) -> int | None:
    """Return a number of bytes; None for None.

    Args:
        name: of the option, for the error.
        value: bytes, or text with a decimal (K, M, G, T) or binary (Ki, Mi, Gi, Ti) unit.

    >>> parse_size("max_file_size", "1.5GB"), parse_size("max_file_size", "512"), parse_size("max_file_size", "2KiB")
    (1500000000, 512, 2048)

    Raises:
        UsageError: not a size of at least one byte.
    """
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([KMGT]I?)?B?\s*", str(value), re.IGNORECASE)
    size = 0.0 if match is None else float(match[1]) * _UNITS[(match[2] or "").upper()]
    if not 1 <= size < 2**63:
        raise UsageError(f"`{name}`: must be a number of bytes such as 500MB or 2GiB, not {value!r}")
    return int(size)


_CONTROL = "[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
MAX_SHARDS = 1_000_000


def is_plain_line(text: object) -> bool:
    r"""Return True for a string without line breaks, control characters, changes of direction and lone surrogates.

    >>> is_plain_line("composite:white"), is_plain_line("224\ntouch x"), is_plain_line(224)
    (True, False, False)
    """
    return isinstance(text, str) and (text.isprintable() or re.search(_CONTROL, text) is None)


def parse_shard(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (I, N) of "I/N".

    >>> parse_shard("2/8")
    (2, 8)

    Raises:
        UsageError: not I/N with I from 1 to N, or more than a million parts.
    """
    if value is None:
        return None
    part, slash, count = value.partition("/") if isinstance(value, str) else ("", "", "")
    if isinstance(value, tuple | list) and len(value) == 2:
        part, slash, count = str(value[0]), "/", str(value[1])
    if slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count) <= MAX_SHARDS:
        return int(part), int(count)
    raise UsageError(f"`shard`: must be I/N with I from 1 to N <= {MAX_SHARDS:,}, such as 1/8, not {value!r}")


def parse_limit(value: str | int | None) -> str | None:
    """Return a limit of failures in one spelling: "N" or "N%".

    >>> parse_limit(3), parse_limit("0.5%")
    ('3', '0.5%')

    Raises:
        UsageError: neither a number nor a share.
    """
    if value is None:
        return None
    text = str(value).strip()
    try:
        number = float(text[:-1]) if text.endswith("%") else int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= (100 if text.endswith("%") else math.inf):
        raise UsageError(f"`max_failures`: must be a number, or a share such as 1%, not {value!r}")
    return text


def parse_level(value: int | str | None) -> int | None:
    """Return the value that maps to 1.0; None for "auto".

    Raises:
        UsageError: neither "auto" nor a positive integer.
    """
    if value is None or value == "auto":
        return None
    try:
        level = int(value)
    except ValueError:
        level = 0
    if level < 1 or (isinstance(value, float) and value != level):
        raise UsageError(f"`max_value`: must be auto or a positive integer such as 4095 or 65535, not {value!r}")
    return level


def parse_pairs(values: Mapping[str, str] | Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return open options as sorted (key, value) pairs from "KEY=VALUE" texts, pairs or a mapping.

    >>> parse_pairs(["layout=nchw", "column=image"])
    (('column', 'image'), ('layout', 'nchw'))

    Raises:
        UsageError: a text without "=", or a key set twice.
    """
    items: Iterable[Any] = values.items() if isinstance(values, Mapping) else values
    items = (items,) if isinstance(items, str) else items
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=") if isinstance(item, str) else (item[0], "=", str(item[1]))
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"`open_options`: must be KEY=VALUE such as layout=nchw, not {item!r}")
        if key in pairs:
            raise UsageError(f"`open_options`: {key} is set twice")
        pairs[key] = value
    return tuple(sorted(pairs.items()))


# whose rounding of sizes and offsets `like` takes; torchvision's is the default
LIBRARIES = ("torchvision", "huggingface", "timm", "ultralytics", "mmcv")
ENGINES = ("auto", "serial", "threads", "processes", "dask")


def parse_engine(value: str) -> str:
    """Return the name of an engine, with its address where it has one.

    Raises:
        UsageError: no such engine, or an address for another one than "dask".
    """
    name, colon, address = value.partition(":")
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if colon and (name != "dask" or not address):
        remedy = "dask or dask:ADDRESS" if name == "dask" else f"{name}, without an address"
        raise UsageError(f"`engine`: must be {remedy}, not {value!r}")
    return value


def parse_alpha(value: str) -> str:
    """Return the treatment of an alpha channel.

    Raises:
        UsageError: no such treatment, or a color that Pillow does not know.
    """
    if value.startswith("composite:"):
        parse_color(value.removeprefix("composite:"))
    elif value not in ("drop", "weight", "mask", "keep"):
        raise UsageError(f"`alpha`: must be one of drop, composite:COLOR, weight, mask, keep, not {value!r}")
    return value


def parse_no_data(value: Any) -> str:
    """Return "tag", "none", or nodata values as text, separated by commas; equal values have equal texts.

    >>> parse_no_data("tag"), parse_no_data(" 0.0, -9999 "), parse_no_data([255, float("nan")])
    ('tag', '0,-9999', '255,nan')

    Raises:
        UsageError: neither a word nor numbers.
    """
    entries = str(value).split(",") if isinstance(value, str | int | float) else list(value)
    if entries in (["tag"], ["none"]):
        return str(value)
    texts = []
    for entry in entries:
        try:
            number = float(entry)
        except (TypeError, ValueError):
            raise UsageError(f"`nodata`: must be tag, none, or numbers such as 0 or -9999,nan, not {value!r}") from None
        whole = math.isfinite(number) and abs(number) < 1e16 and number == int(number)
        texts.append(str(int(number)) if whole else repr(number))
    if not texts:
        raise UsageError("`nodata`: must be tag, none, or at least one number")
    return ",".join(dict.fromkeys(texts))


def parse_fill(value: Any) -> str:
    """Return the value of invalid samples in an output as text: "keep", "nan" or a number.

    >>> parse_fill(0), parse_fill("NaN"), parse_fill("keep")
    ('0', 'nan', 'keep')

    Raises:
        UsageError: none of them.
    """
    if value == "keep":
        return "keep"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UsageError(f"`fill`: must be keep, nan or a number, not {value!r}") from None
    if math.isinf(number):
        raise UsageError(f"`fill`: must be finite or nan, not {value!r}")
    return f"{number:.17g}"


def parse_labels(value: Any) -> str | None:
    """Return the values of masks that make a pixel valid as text: ">N", or sorted numbers separated by commas.

    >>> parse_labels("> 0"), parse_labels("2,1"), parse_labels([7]), parse_labels(None)
    ('>0', '1,2', '7', None)

    Raises:
        UsageError: neither.
    """
    if value is None:
        return None
    entries = str(value).split(",") if isinstance(value, str | int) else list(value)
    above = len(entries) == 1 and str(entries[0]).strip().startswith(">")
    try:
        numbers = sorted({int(str(entry).strip().removeprefix(">" * above)) for entry in entries})
        if numbers and min(numbers) >= 0:
            return ">" * above + ",".join(map(str, numbers))
    except ValueError:
        pass
    raise UsageError(f"`labels`: must be a list of integers from 0, such as 1,2, or >N, such as >0, not {value!r}")


def parse_bands(value: str | Iterable[str | int] | None) -> str | None:
    """Return a selection of bands in one spelling: names or numbers between commas.

    >>> parse_bands([3, 2, 1]), parse_bands(" B02, B03")
    ('3,2,1', 'B02,B03')

    Raises:
        UsageError: no band, an empty name, or a band twice.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else [str(part) for part in value]
    parts = [part.strip() for part in parts]
    if not parts or not all(map(is_plain_line, parts)) or "" in parts or any("," in part for part in parts):
        raise UsageError(f"`bands`: must be names or numbers such as B02,B03 or 1,2,3, not {value!r}")
    if len(set(parts)) < len(parts):
        raise UsageError(f"`bands`: {next(part for part in parts if parts.count(part) > 1)} is selected twice")
    return ",".join(parts)


def parse_color(name: str) -> tuple[int, int, int]:
    """Return red, green and blue from 0 to 255 of a color such as white, #fff or rgb(255,255,255).

    Raises:
        UsageError: not a color that Pillow knows.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UsageError(f"`alpha`: 'composite:{name}' names no color (white, #fff, rgb(255,255,255))") from None
    return red, green, blue


def parse_name(value: str) -> str:
    """Return the name of a convention; dashes and underscores are alike."""
    return value.replace("-", "_")


def as_tuple(values: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text as a tuple of one value, not of its letters.

    >>> as_tuple("*.png"), as_tuple(["*.png", "*.jpg"])
    (('*.png',), ('*.png', '*.jpg'))
    """
    return (values,) if isinstance(values, str) else tuple(values)


def parse_texts(name: str, values: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple.

    Args:
        name: of the option, for the error.
        values: one text, or an iterable of them.

    Raises:
        UsageError: something that is no text.
    """
    texts = as_tuple(values) if isinstance(values, Iterable) else (values,)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"`{name}`: must be text, not {text!r}")
    return texts


def parse_paths(values: Iterable[Any]) -> tuple[Path, ...]:
    """Return one path or several as a tuple."""
    return tuple(map(Path, (values,) if isinstance(values, str | PurePath) else values))


def parse_numbers(name: str, values: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Return numbers as a tuple: of one number, a sequence of them or an array of one axis; None for None.

    >>> parse_numbers("mean", 0.5), parse_numbers("clip", [0, 1], 2)
    ((0.5,), (0.0, 1.0))

    Args:
        name: of the option, for the error.
        values: the numbers.
        count: the number that is required; None for any.

    Raises:
        UsageError: something else, or another count.
    """
    if values is None:
        return None
    try:
        if isinstance(values, str):
            raise TypeError
        numbers = tuple(map(float, values)) if isinstance(values, Iterable) else (float(values),)
    except (TypeError, ValueError):
        raise UsageError(f"`{name}`: must be numbers, such as [0.485, 0.456, 0.406], not {values!r}") from None
    if count is not None and len(numbers) != count:
        raise UsageError(f"`{name}`: must be {count} numbers, not {len(numbers)}")
    return numbers


Color = Literal["auto", "rgb", "gray", "native", "lab", "lab-tissue"]  # also a setting of statistics files
O = TypeVar("O", bound="Options")  # noqa: E741


class Option:
    """One option: its name, default and all that is not in its type.

    Attributes:
        name: of the keyword; its class sets name and type.
        type: the annotation.
        choices: the values of a `Literal`, None apart; () for other types.
        plain: bool, int, float or str where a value has this type or is None; else None.
        default: the value where none is given.
        help: a full sentence: what it does, its unit, what each choice does.
        metavar: placeholder in the help; None derives it from the type.
        flags: names on the command line, such as ("-j", "--workers"); () derives them from the name.
        panel: heading in the help above the option; "" takes that of its class, `owner`.
        complete: the values that the shell completes, or the name of a table of them ("presets").
        parse: returns the value as it is used, or raises UsageError; called where a value is given.
        minimum: the least number that the option takes.
        cli: False for values that only Python code can pass, such as callbacks.
        hidden: True for options that only `--help-all` prints.
    """

    __slots__ = (
        *(
            "name",
            "type",
            "choices",
            "plain",
            "default",
            "help",
            "metavar",
            "flags",
            "panel",
            "complete",
            "parse",
            "minimum",
            "cli",
            "hidden",
            "owner",
        ),
    )
    type: Any
    owner: Any  # the class that declares it
    choices: tuple[str, ...]
    plain: type | None

    def __init__(
        self,
        help: str,
        default: Any,
        *,
        metavar: str | None = None,
        flags: tuple[str, ...] = (),
        panel: str = "",
        complete: str | tuple[str, ...] = (),
        parse: Callable[[Any], Any] | None = None,
        minimum: float | None = None,
        cli: bool = True,
        hidden: bool = False,
    ) -> None:
        self.name = ""
        self.default = default
        self.help = help
        self.metavar = metavar
        self.flags = flags
        self.panel = panel
        self.complete = complete
        self.parse = parse
        self.minimum = minimum
        self.cli = cli
        self.hidden = hidden


def option(help: str, default: Any = None, **settings: Any) -> Any:
    """Return an option of the command line and the Python API.

    Args:
        help: a full sentence.
        default: the value where none is given.
        settings: further attributes of `Option`.
    """
    return Option(help, default, **settings)


def python_only(help: str, default: Any = None) -> Any:
    """Return an option that only Python code can pass; two objects that differ in it alone are equal."""
    return Option(help, default, cli=False)


_PLAIN = {bool: "True or False", int: "an integer", float: "a number", str: "text"}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Options:
    """Base of all groups of options: immutable; every value is checked by its type, its minimum and its parser.

    To type checkers each group is a dataclass. It is none at run time, because a dataclass compiles its methods anew
    in every process: 0.6 ms a class, 15 ms for the options of `stats`.

    Raises:
        UsageError: a value that is not one of the choices, not of the type, or rejected by the parser.
    """

    panel = "Options"
    declared: ClassVar[Mapping[str, Option]] = {}  # by name, those of bases first

    def __init_subclass__(cls) -> None:
        declared: dict[str, Option] = {}
        for base in cls.__mro__[-1:0:-1]:
            declared |= vars(base).get("declared", {})
        for name, hint in inspect.get_annotations(cls).items():
            item = vars(cls)[name]
            assert isinstance(item, Option), name
            item.name, item.type, item.owner = name, hint, cls
            item.choices = _literals(hint)
            parts = set(get_args(hint) or (hint,)) - {type(None)}
            item.plain = next(iter(parts & _PLAIN.keys()), None) if len(parts) == 1 else None
            declared[name] = item
            setattr(cls, name, item.default)
        cls.declared = declared

    def __init__(self, **values: Any) -> None:
        own = self.__dict__
        for name, item in self.declared.items():
            own[name] = values.pop(name, item.default)
        if values:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {next(iter(values))!r}")
        self._check()

    def _check(self) -> None:
        """Check all values; a group that overrides this calls it first."""
        for name, item in self.declared.items():
            value = getattr(self, name)
            if value is None:
                continue
            require_text(name, value)
            if item.choices and value not in item.choices:
                near = nearest(value, item.choices)
                raise UsageError(f"`{name}`: must be one of {', '.join(item.choices)}, not {value!r}{near}")
            if item.plain is not None and type(value) is not item.plain:
                value = _as_plain(name, value, item.plain)
            if item.minimum is not None and not value >= item.minimum:
                raise UsageError(f"`{name}`: must be at least {item.minimum:g}, not {value}")
            self._set(name, value if item.parse is None else item.parse(value))

    def part(self, kind: type[O]) -> O:
        """Return the options of one group, such as `DecodeOptions`, out of a larger set."""
        return kind(**{name: getattr(self, name) for name in kind.declared})

    def replace(self: O, **values: Any) -> O:
        """Return the same options with other values."""
        return type(self)(**(self.as_dict() | values))

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return {name: getattr(self, name) for name in self.declared}

    def any_set(self, *names: str) -> bool:
        """Return True if one of these options is not None."""
        return any(getattr(self, name) is not None for name in names)

    @cached_property
    def changed(self) -> frozenset[str]:
        """Names of the options that differ from their defaults."""
        return frozenset(name for name, item in self.declared.items() if getattr(self, name) != item.default)

    def _set(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        self.__dict__.pop("changed", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot assign to {name!r}: options are immutable (use `replace`)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete {name!r}: options are immutable")

    def _compared(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name, item in self.declared.items() if item.cli)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({values})"


def options_of(kind: type[Options]) -> tuple[Option, ...]:
    """Return the options of a group, those of its bases first."""
    return tuple(kind.declared.values())


def require_text(name: str, value: object) -> None:
    """Check that a text is not empty: an empty path would be the current folder.

    Raises:
        UsageError: an empty text.
    """
    if type(value) is str and not value:
        raise UsageError(f"`{name}`: must not be empty")


def nearest(value: object, names: Iterable[str]) -> str:
    """Return a suggestion for a misspelled name, to be appended to an error; "" where none is near.

    >>> nearest("grey", ["rgb", "gray"])
    " (did you mean 'gray'?)"
    """
    near = difflib.get_close_matches(str(value).lower(), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def choices_of(kind: type[Options]) -> Mapping[str, tuple[str, ...]]:
    """Return the choices of every option whose type is a `Literal`, by name."""
    return {f.name: f.choices for f in options_of(kind) if f.choices}


def _as_plain(name: str, value: Any, plain: type) -> Any:
    """Return a value as the plain type that it equals, such as NumPy's integers as int.

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
    for name in keywords:
        if name not in kind.declared:
            near = nearest(name, kind.declared)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{near}")
    return kind(**keywords)
