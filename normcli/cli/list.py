"""normcli list: the names that options take."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from normcli.cli import completion
from normcli.cli.build import command
from normcli.errors import unknown
from normcli.options.printing import JsonOptions, TerminalOptions

Row = dict[str, Any]


def list_(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="Table to print: schemes, normalizers, presets, formats, outputs or exporters (default: all).",
            autocompletion=completion.completer(lambda: iter(TABLES)),
            show_default=False,
        ),
    ] = None,
    *,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """List schemes, normalizers, presets, input formats, output formats and exporters.

    normcli list schemes

    normcli list formats --json
    """
    from normcli.cli.messages import document, write_lines

    if table is not None and table.lower() not in TABLES:
        raise unknown("table", table, TABLES)
    names = list(TABLES) if table is None else [table.lower()]
    if printing.json:
        document({name: list(TABLES[name][1]()) for name in names})
        return 0
    for number, name in enumerate(names):
        heading, rows = TABLES[name]
        write_lines([*[""] * (number > 0), heading, *_lines(list(rows()))])
    return 0


def _lines(rows: list[Row]) -> Iterator[str]:
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        first, *rest = [f"{value}" for key, value in row.items() if key != "name" and value] or [""]
        yield f"  {row['name']:<{width}}  {first}"
        yield from (f"  {'':<{width}}  {line}" for line in rest)


def _schemes() -> Iterator[Row]:
    from normcli import schemes

    for name, defaults, summary in schemes.catalog():
        settings = ",".join(
            f"{key}={key.upper() if value is None else _shown(value)}" for key, value in defaults.items()
        )
        yield {"name": name, "summary": summary, "settings": f"{name}:{settings}" if settings else ""}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _normalizers() -> Iterator[Row]:
    from normcli.tensor import catalog

    for name, _, summary in catalog.rows():
        yield {"name": name, "summary": summary}


def _presets() -> Iterator[Row]:
    from normcli.schemes import PRESETS

    for name, preset in PRESETS.items():
        mean, std = (" ".join(map(repr, values)) for values in (preset.mean, preset.std or ()))
        yield {
            "name": name,
            "constants": f"mean {mean}" + (f"  std {std}" if std else ""),
            "source": f"{preset.convention.replace('_', ' ')}; {preset.source}",
            "warning": f"often copied, and wrong: {preset.seen}" if preset.seen else "",
        }


def _formats() -> Iterator[Row]:
    from normcli.sources import describe_formats

    for row in describe_formats():
        yield {
            "name": row.name,
            "summary": row.help,
            "files": " ".join(row.suffixes),
            **({"requires": f'{row.extra_for}: pip install "normcli[{row.extra}]"'} if row.extra else {}),
            **{f"-O {o.name}": f"-O {o.name}={'|'.join(o.choices) or 'NAME'}: {o.help}" for o in row.options},
        }


def _outputs() -> Iterator[Row]:
    from normcli.sinks import OUTPUT_KINDS

    for name, kind in OUTPUT_KINDS.items():
        yield {"name": name, "summary": kind.help}


def _exporters() -> Iterator[Row]:
    from normcli.constants.exporters import EXPORTERS

    for name, exporter in EXPORTERS.items():
        yield {"name": name, "summary": (exporter.__doc__ or "\n").splitlines()[0]}


TABLES: dict[str, tuple[str, Callable[[], Iterator[Row]]]] = {
    "schemes": ("Schemes (apply --scheme NAME:SETTINGS; settings as key=value, or in order)", _schemes),
    "normalizers": ("Normalizers (tensor NAME)", _normalizers),
    "presets": ("Presets (apply and check --preset NAME; on the 0-1 scale, RGB)", _presets),
    "formats": ("Input formats", _formats),
    "outputs": ("Output formats (apply --to NAME)", _outputs),
    "exporters": ("Exporters (show and stats --format NAME)", _exporters),
}

app = command(list_)
