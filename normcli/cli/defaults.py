"""Defaults of options from the environment and the configuration file, and the command that takes each.

The file is `[tool.normcli]` in pyproject.toml, or normcli.toml, the nearest one in the current folder or above it;
NORMCLI_CONFIG names another one, or none if it is empty. Keys at the top hold for every command that knows them, those
in a table such as `[tool.normcli.stats]` for one.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer

from normcli.cli import click
from normcli.cli.build import VARIABLE, find_config, read_config, variables_of
from normcli.cli.click import BadParameter, Parameter
from normcli.errors import UsageError
from normcli.options.field import nearest


class Config(NamedTuple):
    """Settings of a configuration file.

    Attributes:
        path: the file; None where there is none.
        shared: settings of every command.
        commands: settings of single commands.
    """

    path: Path | None
    shared: Mapping[str, Any]
    commands: Mapping[str, Mapping[str, Any]]

    def of(self, command: str) -> dict[str, Any]:
        """Return the settings that a command takes, if it knows them."""
        return {**self.shared, **self.commands.get(command, {})}


def load(commands: Mapping[str, Any]) -> Config:
    """Return the configuration in force.

    Args:
        commands: names of commands, which may have tables of their own.

    Raises:
        UsageError: not TOML, or a key that is not a table or setting.
    """
    path = find_config()
    if path is None:
        return Config(None, {}, {})
    import tomllib

    try:
        document = tomllib.loads(read_config(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML (byte {error.start} is not UTF-8)") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not valid TOML ({error})") from None
    table = document.get("tool", {}).get("normcli", {}) if path.name == "pyproject.toml" else document
    if path.name != "pyproject.toml" and isinstance(document.get("tool"), dict):
        table = document["tool"].get("normcli", document)
    tables = {as_key(key): value for key, value in table.items() if isinstance(value, dict)}
    for name in tables:
        if name not in commands:
            raise UsageError(f"{path}: [{name}] is not a command{nearest(name, commands)}")
    shared = {as_key(key): value for key, value in table.items() if not isinstance(value, dict)}
    return Config(path, shared, {name: {as_key(k): v for k, v in value.items()} for name, value in tables.items()})


def as_argument(path: Path, option: Parameter, value: Any) -> Any:
    """Return a value of the configuration in the form that the command line has.

    Args:
        path: of the file, for the error.
        option: the option to set.
        value: as TOML has it; an option that can be repeated takes one value, several, or a table of KEY=VALUE.

    Raises:
        UsageError: a value that the option cannot have.
    """
    if getattr(option, "multiple", False):
        if isinstance(value, dict):
            return [f"{key}={_text(path, option, part)}" for key, part in value.items()]
        return [_text(path, option, part) for part in (value if isinstance(value, list) else [value])]
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {option.name}: must be true or false, not {value!r}")
        return value
    if isinstance(value, list) and option.name in ("mean", "std", "clip"):
        return ",".join(_text(path, option, part) for part in value)
    text = _text(path, option, value)
    if getattr(option, "count", False):
        return int(text)
    try:
        return option.type.convert(text, option, None)
    except BadParameter as error:
        from normcli.cli.usage_errors import describe_value

        problem = describe_value(error, option) or error.message.removesuffix(".")
        raise UsageError(f"{path}: {option.name}: {problem}") from None


def _text(path: Path, option: Parameter, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = {bool: "true or false", list: "a list", dict: "a table"}.get(type(value), "a date")
        raise UsageError(f"{path}: {option.name}: must be text or a number, not {kind}")
    return str(value)


def as_key(key: str) -> str:
    """Return a key of the file as an option's name: dashes and underscores are alike."""
    return key.replace("-", "_")


# name -> module with an `app`; the order is the order of the help
COMMANDS = {
    "stats": "normcli.cli.stats",
    "apply": "normcli.cli.apply",
    "restore": "normcli.cli.restore",
    "verify": "normcli.cli.verify",
    "merge": "normcli.cli.merge",
    "show": "normcli.cli.show",
    "tensor": "normcli.cli.tensor",
    "check": "normcli.cli.check",
    "diff": "normcli.cli.diff",
    "list": "normcli.cli.list",
    "env": "normcli.cli.env",
}
VARIABLES = {
    VARIABLE: "configuration file to read instead of the nearest one; empty: none",
    "NORMCLI_RETRIES": "number of times that a request to a server is repeated (default: 3)",
    "NORMCLI_AOT": "0 runs kernels through Numba alone, without machine code kept on disk",
    "NUMBA_CACHE_DIR": "folder in which to keep the machine code, below normcli/",
    "NO_COLOR": "any text prints no color",
    "FORCE_COLOR": "any text prints color to files and pipes as well",
}
"""Environment variables that set no option, with what they do."""
OTHER_VARIABLES = frozenset(name for name in VARIABLES if name.startswith("NORMCLI_"))


def configuration() -> Config:
    """Return the configuration file's settings.

    Raises:
        UsageError: not TOML, or a table that is not a command.
    """
    return load(COMMANDS)


def options_of(name: str) -> list[str]:
    """Return the names of a command's options; of `tensor`, those of all normalizers."""
    if name == "tensor":
        return sorted({option for one in _tensor_commands() for option in _parameters(_tensor_command(one))})
    return list(_parameters(typer.main.get_command(importlib.import_module(COMMANDS[name]).app)))


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    return {str(p.name): p for p in command.params if p.param_type_name == "option" and p.name != "help"}


def _tensor_commands() -> list[str]:
    from normcli.cli.tensor import names

    return names()


def _tensor_command(name: str) -> click.Command:
    from normcli.cli.tensor import command_of

    command = command_of(name)
    assert command is not None, name
    return command


def of_command(name: str, command: click.Command) -> dict[str, Any]:
    """Return the settings of the configuration file that a command takes.

    Raises:
        UsageError: a key that is not an option of the command, or of any command.
    """
    settings = configuration()
    if settings.path is None or name == "tensor":
        return {}
    known = _parameters(command)
    unknown_key = next((key for key in settings.commands.get(name, {}) if key not in known), None)
    if unknown_key is not None:
        raise UsageError(f"{settings.path}: {unknown_key} is not an option of {name}{nearest(unknown_key, known)}")
    for key in settings.shared:
        if key not in known and not any(key in options_of(other) for other in COMMANDS if other != "tensor"):
            every = {option for other in COMMANDS if other != "tensor" for option in options_of(other)}
            raise UsageError(f"{settings.path}: {key} is not an option of any command{nearest(key, every)}")
    return _values(settings, known, settings.of(name))


def of_tensor_command(name: str, command: click.Command) -> dict[str, Any]:
    """Return the settings of `normcli tensor NAME`: those of [tensor] that it knows, and all of [tensor.NAME].

    Raises:
        UsageError: a table that is no normalizer, or a key that is not an option of it, or of any normalizer.
    """
    settings = configuration()
    if settings.path is None:
        return {}
    known = _parameters(command)
    table = settings.commands.get("tensor", {})
    tables = {key.replace("_", "-"): value for key, value in table.items() if isinstance(value, dict)}
    for key in tables:
        if key not in _tensor_commands():
            raise UsageError(f"{settings.path}: [tensor.{key}] is not a normalizer{nearest(key, _tensor_commands())}")
    own = {as_key(key): value for key, value in tables.get(name, {}).items()}
    shared = {key: value for key, value in table.items() if not isinstance(value, dict)}
    for key in own:
        if key not in known:
            raise UsageError(f"{settings.path}: {key} is not an option of tensor {name}{nearest(key, known)}")
    for key in shared:
        if key not in known and key not in options_of("tensor"):
            every = options_of("tensor")
            raise UsageError(f"{settings.path}: {key} is not an option of tensor{nearest(key, every)}")
    return _values(settings, known, {**shared, **own})


def _values(settings: Config, known: Mapping[str, click.Parameter], table: Mapping[str, Any]) -> dict[str, Any]:
    assert settings.path is not None, "only a file has settings"
    return {key: as_argument(settings.path, known[key], value) for key, value in table.items() if key in known}


def in_force() -> Iterator[dict[str, Any]]:
    """Yield every setting that the environment or the configuration file changes, with its origin."""
    settings = configuration()
    for name in COMMANDS:
        table = settings.commands.get(name, {}) if name == "tensor" else settings.of(name)
        needs_all = name != "tensor" or table or any(v.startswith("NORMCLI_TENSOR_") for v in os.environ)
        for option in options_of(name) if needs_all else ():
            variable = next((v for v in variables_of(name, option) if v in os.environ), None)
            if variable is not None:
                yield {"command": name, "option": option, "value": os.environ[variable], "origin": variable}
            elif option in table:
                yield {"command": name, "option": option, "value": table[option], "origin": str(settings.path)}
        for key, inner in table.items():
            if name == "tensor" and isinstance(inner, dict):
                for option, value in inner.items():
                    row = {"command": f"tensor {key.replace('_', '-')}", "option": as_key(option)}
                    yield {**row, "value": value, "origin": str(settings.path)}


def unknown_variables(command: str) -> Iterator[str]:
    """Yield a sentence for every variable NORMCLI_... of the environment that sets nothing.

    Args:
        command: the one that runs: others are made, which takes 50 ms, only where variables are not of this one.
    """
    names = {name for name in os.environ if name.startswith("NORMCLI_")} - OTHER_VARIABLES
    known: set[str] = set()
    for other in sorted(COMMANDS, key=lambda other: (other != command, other == "tensor")):
        if names <= known:
            return
        if other != "tensor" or any(name.startswith("NORMCLI_TENSOR_") for name in names):
            known.update(_variables(other))
    for name in sorted(names - known):
        yield f"{name} sets nothing{nearest_variable(name, known | OTHER_VARIABLES)}"


def nearest_variable(name: str, known: frozenset[str] | set[str]) -> str:
    """Return a suggestion for a misspelled variable.

    >>> nearest_variable("NORMCLI_WOKERS", {"NORMCLI_WORKERS", "NORMCLI_SEED"})
    ' (did you mean NORMCLI_WORKERS?)'
    """
    import difflib

    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _variables(name: str) -> Iterator[str]:
    for option in options_of(name):
        yield from variables_of(name, option)
