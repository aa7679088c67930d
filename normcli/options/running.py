"""Options for how a run goes: workers, engine, failures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from normcli.errors import UsageError, unknown
from normcli.options.field import Options, option, python_only
from normcli.options.parse import parse_limit

ENGINES = ("auto", "serial", "threads", "processes", "dask")


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """Workers and engine."""

    panel = "Run"

    workers: int = option("Number of workers; 0 is one per usable CPU.", 0, metavar="N", flags=("-j", "--workers"))
    engine: str = option(
        "Run work serially, in threads, in processes, or on a Dask cluster (dask starts one here; dask:ADDRESS uses a "
        "running one); auto measures and chooses. Results are identical for all engines.",
        "auto",
        metavar="auto|serial|threads|processes|dask[:ADDRESS]",
        complete=ENGINES,
    )
    on_progress: Callable[[Any], None] | None = python_only(
        "Called after every batch with an object that has `inputs` and `bytes`, the numbers of that batch."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers < 0:
            raise UsageError(f"`workers`: must be 0 (one per CPU) or more, not {self.workers}")
        name, colon, address = self.engine.partition(":")
        if name not in ENGINES:
            raise unknown("engine", name, ENGINES)
        if colon and (name != "dask" or not address):
            remedy = "dask or dask:ADDRESS" if name == "dask" else f"{name}, without an address"
            raise UsageError(f"`engine`: must be {remedy}, not {self.engine!r}")

    @property
    def runner(self) -> dict[str, Any]:
        """The keywords of `engine.run`."""
        return {"engine": self.engine, "workers": self.workers}


@dataclass(frozen=True, kw_only=True)
class FailureOptions(Options):
    """Policy for inputs that fail."""

    panel = "Run"

    max_failures: str | int | None = option(
        "Abort when more than N, or N%, of the inputs fail; 0 aborts at the first (default: no limit).",
        metavar="N|N%",
    )
    on_failure: Callable[[Any], None] | None = python_only(
        "Called with a `Failure` for every input that is not used, in order."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("max_failures", parse_limit(self.max_failures))
