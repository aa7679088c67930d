"""Volumes as cases: the label of a volume is its name without folders, so two of one name are one case."""

from collections.abc import Iterable

from normcli.sources.listing import container, expand
from normcli.sources.nifti import case_of


def find_same_case(sources: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two NIfTI volumes of the sources that have the same label; None if there are none."""
    first: dict[str, str] = {}
    for source in sources:
        for path in expand(source):
            if container(path) == "nifti" and first.setdefault(case_of(path), path) is not path:
                return first[case_of(path)], path
    return None
