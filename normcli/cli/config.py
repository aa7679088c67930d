"""Defaults from a configuration file: `[tool.normcli]` in pyproject.toml, or normcli.toml.

The nearest file in the current folder or above it is read; NORMCLI_CONFIG names another one, or none if it is empty.
Keys at the top hold for every command that knows them, those in a table such as `[tool.normcli.stats]` for one.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from normcli.cli.click import BadParameter, Parameter
from normcli.errors import UsageError
from normcli.options.field import nearest

VARIABLE = "NORMCLI_CONFIG"  # names the file; so it sets no option, as `config` of `check`
_NAMES = ("normcli.toml", "pyproject.toml")


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


def find() -> Path | None:
    """Return the configuration file in force; None where there is none.

    Raises:
        UsageError: NORMCLI_CONFIG names a file that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        path = Path(named)
        if named and not path.is_file():
            raise UsageError(f"{VARIABLE}: {named} does not exist")
        return path if named else None
    try:
        here = Path.cwd()
    except OSError:  # the current folder was removed
        return None
    for folder in (here, *here.parents):
        for name in _NAMES:
            path = folder / name
            if path.is_file() and (name == "normcli.toml" or b"tool.normcli" in _bytes(path)):
                return path
    return None


def load(commands: Mapping[str, Any]) -> Config:
    """Return the configuration in force.

    Args:
        commands: names of commands, which may have tables of their own.

    Raises:
        UsageError: not TOML, or a key that is not a table or setting.
    """
    path = find()
    if path is None:
        return Config(None, {}, {})
    import tomllib

    try:
        document = tomllib.loads(_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
    """Return a value of the configuration as the command line would give it.

    Args:
        path: of the file, for the error.
        option: that it sets.
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
        raise UsageError(f"{path}: {option.name}: {error.message.removesuffix('.')}") from None


def _text(path: Path, option: Parameter, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = {bool: "true or false", list: "a list", dict: "a table"}.get(type(value), "a date")
        raise UsageError(f"{path}: {option.name}: must be text or a number, not {kind}")
    return str(value)


def as_key(key: str) -> str:
    """Return a key of the file as an option's name: dashes and underscores are alike."""
    return key.replace("-", "_")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
