"""The further passes of `exact_percentiles`: the images are counted again, and values of few bins are collected."""

from collections.abc import Callable, Iterator
from functools import partial

from normcli.errors import NormcliError, RemoteError
from normcli.options.stats import StatsOptions
from normcli.runs.count import Failure, PartialResult, WorkerOptions, count_batch
from normcli.runs.loop import Batching, Loop
from normcli.sources import Item, Skipped
from normcli.summary import Summary
from normcli.summary.exact_percentiles import Search
from normcli.tally.second_pass import SecondPass

_BATCHING = Batching(seconds=0.05, most_items=512)


def with_exact_percentiles(
    summary: Summary,
    options: StatsOptions,
    worker: WorkerOptions,
    listed: Callable[[], Iterator[Item | Skipped]],
) -> Summary:
    """Return a summary with exact percentiles: read the inputs again until all are known, usually once.

    Args:
        summary: of the first pass.
        options: of the run.
        worker: those of its workers.
        listed: returns the inputs anew.

    Raises:
        NormcliError: the inputs changed, or one cannot be read again.
    """
    search = Search(summary, options.percentiles, options.percentile_method)
    plain = worker._replace(per_image=False, extremes=False, rows=False, file_results=False)
    while (division := search.next_division()) is not None:
        again, failure = _read(plain._replace(division=division), options, listed())
        if (f"{again.digest:032x}", again.images) != (summary.provenance["digest"], summary.images):
            raise _changed(failure, again)
        search.refine(again.selected)
    return search.summary()


def _read(
    worker: WorkerOptions, options: StatsOptions, items: Iterator[Item | Skipped]
) -> tuple[SecondPass, Failure | None]:
    """Return the counts of one pass, and the first failure that another try could mend."""
    assert worker.division is not None, "a pass that divides cells"
    total, failures = SecondPass(worker.division), list[Failure]()

    def consume(result: PartialResult) -> None:
        total.add(result.tally)
        failures.extend(failure for failure in result.failures if not (failures or failure.is_lasting))

    Loop(worker=partial(count_batch, worker), consume=consume, engine=options, batching=_BATCHING).run(items)
    return total, next(iter(failures), None)


def _changed(failure: Failure | None, tally: SecondPass) -> NormcliError:
    """Return the error for another content than that of the first pass."""
    again = "`exact_percentiles` reads every input again"
    if failure is not None:
        kind = RemoteError if failure.reason == "remote" else NormcliError
        return kind(f"{again}, and {failure.key} cannot be read: {failure.message}")
    if not tally.images and not tally.failed:
        return NormcliError(f"{again}, and this one ends after one reading (an iterator, such as a generator)")
    return NormcliError(f"{again}, and the inputs changed meanwhile (run the same command again)")


def has_percentiles(summary: Summary, options: StatsOptions) -> bool:
    """Return True if a finished run had the same percentiles, by as many passes."""
    details = summary.percentile_details
    if details is None or (options.percentiles is None and not options.exact_percentiles):
        return details is None and options.percentiles is None and not options.exact_percentiles
    if (details["method"], details["requested"]) != (options.percentile_method, [*(options.percentiles or ())]):
        return False
    summary = summary.replace(percentile_details=None)
    one_pass = summary.with_percentiles(options.percentiles or (), method=options.percentile_method).percentile_details
    return bool(details["exact"] == (options.exact_percentiles or (one_pass or {})["exact"]))
