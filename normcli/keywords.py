"""Decorators that turn a function of an options object into one of keywords, as the Python API has them.

A type checker, `inspect.signature` and the docstring show each field of the options class as a keyword.
"""

import inspect
import re
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from normcli.errors import NormcliError, in_python, name_parameters
from normcli.options.field import Options, make, options_of

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
O = TypeVar("O", bound=Options)  # noqa: E741
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A_contra = TypeVar("A_contra", contravariant=True)


def one_argument(kind: Callable[P, O]) -> Callable[[Callable[[A, O], R]], Callable[Concatenate[A, P], R]]:
    """Turn function(a, options) into function(a, **keywords), with the keywords of an options class."""
    return lambda function: _with_keywords(function, kind)


def two_arguments(kind: Callable[P, O]) -> Callable[[Callable[[A, B, O], R]], Callable[Concatenate[A, B, P], R]]:
    """Turn function(a, b, options) into function(a, b, **keywords), with the keywords of an options class."""
    return lambda function: _with_keywords(function, kind)


class _WithScheme(Protocol[P, R_co]):
    """A function whose first argument is a scheme, contrast by default."""

    @overload
    def __call__(self, scheme: str, /, *args: P.args, **keywords: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: P.args, **keywords: P.kwargs) -> R_co: ...


def scheme_argument(kind: Callable[P, O]) -> Callable[[Callable[[str, O], R]], _WithScheme[P, R]]:
    """Turn function(scheme, options) into function(scheme="contrast", **keywords)."""
    return lambda function: _with_keywords(function, kind, scheme="contrast")


class _WithConstants(Protocol[A_contra, P, R_co]):
    """A function of statistics and of constants, which may be keywords as well."""

    @overload
    def __call__(self, statistics: A_contra, mean: Any, std: Any, /, *args: P.args, **keywords: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, statistics: A_contra, mean: Any, /, *args: P.args, **keywords: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, statistics: A_contra, /, *args: P.args, **keywords: P.kwargs) -> R_co: ...


def constants_arguments(
    kind: Callable[P, O],
) -> Callable[[Callable[[A, Any, Any, O], R]], _WithConstants[A, P, R]]:
    """Turn function(statistics, mean, std, options) into function(statistics, mean=None, std=None, **keywords)."""
    return lambda function: _with_keywords(function, kind, mean=None, std=None)


def _with_keywords(function: Callable[..., R], kind: Any, **defaults: Any) -> Any:
    """Return a function that makes the last argument, the options, from keywords.

    It has the signature of its keywords, and their help in its docstring.
    """
    signature = inspect.signature(function)
    named = [
        p.replace(default=defaults.get(name, p.default))
        for name, p in signature.parameters.items()
        if name != "options"
    ]
    positional = inspect.Signature(named)
    names_of_options = {p.name for p in _parameters_of(kind)}

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> R:
        by_name = {p.name: keywords.pop(p.name) for p in named if p.name in keywords}
        try:
            try:
                bound = positional.bind(*args, **by_name)
            except TypeError as error:
                _options(kind, function, keywords)  # a misspelled keyword is the first thing to name
                most = f" (at most {len(named)}: {', '.join(p.name for p in named)})" * (len(args) > len(named))
                raise TypeError(f"{function.__name__}() {error}{most}") from None
            bound.apply_defaults()
            shared = {name: value for name, value in bound.arguments.items() if name in names_of_options}
            return function(*bound.args, _options(kind, function, keywords | shared))
        except NormcliError as error:
            name_parameters(error)
            raise

    only_keywords = [p for p in _parameters_of(kind) if p.name not in positional.parameters]
    call.__signature__ = signature.replace(parameters=[*named, *only_keywords])  # type: ignore[attr-defined]
    text = in_python(_document(kind)).replace("; - is stdout.", ".").replace("requires -o", "requires `output`")
    call.__doc__ = (function.__doc__ or "").replace(
        "        options: all keywords.\n", re.sub("^", "    ", text, flags=re.M).rstrip(" ")
    )
    return call


def _options(kind: Callable[..., O], function: Callable[..., Any], keywords: dict[str, Any]) -> O:
    options = make(kind, function.__name__, keywords)  # type: ignore[arg-type]
    if getattr(options, "on_progress", False) is None and (step := _notebook_progress()) is not None:
        object.__setattr__(options, "on_progress", step)
    if (report := getattr(options, "on_failure", None)) is not None:
        object.__setattr__(options, "on_failure", partial(_report_in_python, report))
    return options


def _report_in_python(report: Callable[[Any], None], failure: Any) -> None:
    report(failure._replace(message=in_python(failure.message)))


def _notebook_progress() -> Callable[[Any], None] | None:
    """Return a callback that draws a progress bar in a notebook; None elsewhere."""
    import sys

    shell = sys.modules.get("IPython")
    if shell is None or "IPKernelApp" not in getattr(shell.get_ipython(), "config", {}):
        return None
    from normcli.cli.messages import notebook_bar

    return notebook_bar()


def _parameters_of(kind: type[Options]) -> list[inspect.Parameter]:
    """Return the keyword parameters of a function that takes these options."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type) for f in options_of(kind)]


def _document(kind: type[Options]) -> str:
    """Return the lines of a docstring's "Args" section that describe these options."""
    return "".join(f"    {f.name}: {f.help}\n" for f in options_of(kind))
