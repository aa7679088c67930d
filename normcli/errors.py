"""Errors, each with its exit code on the command line."""

import difflib
import re
import struct
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class NormcliError(Exception):
    """Base of every error that normcli raises on purpose; its text is one line for the user."""

    exit_code = 1


class UsageError(NormcliError, ValueError):
    """A setting that cannot be: unknown name, value out of range, settings that contradict each other."""

    exit_code = 2


class StatisticsFileError(NormcliError, ValueError):
    """A file that is not a statistics file, is damaged, or has a newer schema."""

    exit_code = 2


class NoInputError(NormcliError, ValueError):
    """Nothing usable among the inputs."""

    exit_code = 4


class OutputError(NormcliError, OSError):
    """An output that could not be written completely; nothing has its final name."""

    exit_code = 5


class RemoteError(NormcliError, ConnectionError):
    """A server that did not answer after retries; trying again may help."""

    exit_code = 6


class MissingExtraError(NormcliError, ImportError):
    """An optional library that is not installed."""

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(f'{what} needs {library}: pip install "normcli[{extra}]"')


class InputError(NormcliError, ValueError):
    """One input that cannot be used; the run continues without it.

    Args:
        reason: one word for counting: "missing", "unreadable", "empty", "not-an-image", "truncated", …
        message: one line for the user.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class TensorError(NormcliError, ValueError):
    """A tensor, state or weight that does not fit the normalizer: the rule, and the value that breaks it."""


class UnsupportedTensorError(TensorError):
    """A tensor of a type that cannot be normalized with any settings; others of its file can be."""


_OF_PYTHON = (
    ArithmeticError,
    AssertionError,
    BufferError,
    LookupError,
    NameError,
    RecursionError,
    StopIteration,
    TypeError,
    UnicodeError,
    struct.error,
)
_WORDS_OF_PYTHON = re.compile(
    "has no attribute|object is not|invalid literal|could not convert|truth value|broadcast|reshape array|^math domain|"
    "cannot load this image"
)
_OF_A_CODEC = re.compile(r"^\w+ returned .+$|^\w+( or \w+)? failed$|^decoder error -?\d+$")


def library_text(error: Exception) -> str:
    """Return a library's message about damaged data, without names of Python's exceptions.

    Decoders raise Python's own errors where a header has values that they do not expect; those explain nothing.

    >>> library_text(ValueError("Invalid dimensions")), library_text(TypeError("'<' not supported between int and str"))
    ('Invalid dimensions', 'its header or data is damaged')
    >>> library_text(RuntimeError("opj_read_header failed"))
    'its compressed data is damaged (opj_read_header failed)'
    """
    text = " ".join(str(error).split())
    if not text or isinstance(error, _OF_PYTHON) or _WORDS_OF_PYTHON.search(text):
        return "its header or data is damaged"
    if _OF_A_CODEC.match(text):
        return f"its compressed data is damaged ({shortened(text)})"
    return shortened(text, 200)


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return the first names of a list for a message, each shortened, and the number of the others.

    >>> listed("abc"), listed(["a", "b", "c"], 1)
    ('a, b, c', 'a and 2 more')
    """
    every = list(names)
    rest = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(map(shortened, every[:most])) + rest


def shortened(text: str, most: int = 100) -> str:
    """Return a text of at most so many characters, with an ellipsis where some were cut.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Make the error for an unknown name, with the nearest known one.

    >>> str(unknown("scheme", "contarst", ["unit", "signed", "contrast"]))
    "unknown scheme 'contarst': did you mean 'contrast'?"
    """
    known, name = list(known), str(name)
    names = sorted(known)
    # of names that begin alike, the one that is declared first: torch is torchvision before torchgeo
    near = [one for one in known if len(name) > 3 and one.startswith(name)] or difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else "choose from " + ", ".join(names)
    return UsageError(f"unknown {kind} {shortened(name)!r}: {hint}")


def in_python(text: str) -> str:
    """Return a text with its options named as keywords.

    >>> in_python("too large (--max-file-size)"), in_python("several arrays (-O variable=a)")
    ('too large (`max_file_size`)', 'several arrays (`open_options` variable=a)')
    """
    text = re.sub(r"(?<![\w-])-O (?=[a-z])", "`open_options` ", text)
    return re.sub(r"(?<![\w-])--([a-z][a-z-]+)", lambda flag: f"`{flag[1].replace('-', '_')}`", text)


def on_command_line(text: str) -> str:
    """Return an error with its parameters named as on the command line.

    >>> on_command_line("`max_value`: must be positive; `weight` group requires `group_by`")
    '--max-value: must be positive; --weight group requires --group-by'
    """
    text = text.replace("`open_options`", "-O")
    return re.sub(r"`([a-z][a-z_]*)`", lambda name: f"--{name[1].replace('_', '-')}", text)


def name_parameters(error: NormcliError) -> None:
    """Replace the options that an error names by keywords of the API."""
    error.args = tuple(in_python(part) if isinstance(part, str) else part for part in error.args)
    if isinstance(error, MissingExtraError):  # an ImportError prints its `msg`
        error.msg = in_python(error.msg)
    elif isinstance(error, InputError):
        error.message = in_python(error.message)


def naming_parameters(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the Python API: its errors name keywords, where those of the command line name options."""

    @wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*args, **keywords)
        except NormcliError as error:
            name_parameters(error)
            raise

    return call
