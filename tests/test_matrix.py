"""Outputs of the commands have the bits of the first edition; versions of the libraries are in the fixture.

`python -m tests.support.matrix check` prints what differs; `store` is for a change on purpose, which CHANGELOG names.
"""

import sys
from typing import Any

import pytest

from tests.support import matrix
from tests.support.matrix_cells import cells

# members of zips have other headers there, and in no later version (python/cpython#103861)
_OLD_ZIP = sys.version_info < (3, 11, 4)


@pytest.mark.parametrize("half", [0, 1])
def test_the_light_cells_write_what_is_stored(half: int) -> None:
    versions, stored = matrix.load()
    light = [cell for cell in cells() if cell.light and not (_OLD_ZIP and "/npz/" in cell.name)][half::2]
    results = matrix.run(light, matrix.ROOT)
    assert len(results) > len(light) / 2
    assert matrix.differences(results, stored) == [], f"stored with {versions}, here {matrix.environment()}"


@pytest.mark.campaign
def test_every_cell_writes_what_is_stored() -> None:
    versions, stored = matrix.load()
    results = matrix.run(cells(), matrix.ROOT)
    assert matrix.differences(results, stored) == [], f"stored with {versions}, here {matrix.environment()}"
    assert results.keys() == stored.keys()


def test_a_difference_is_reported() -> None:
    stored: dict[str, dict[str, Any]] = {"a": {"exit": [0], "out": "1"}, "b": {"exit": [0]}}
    assert matrix.differences({"a": {"exit": [0], "out": "2"}}, stored) == ["a: out: stored 1, now 2"]
    assert matrix.differences({"c": {"exit": [0]}}, stored) == ["c: exit: stored None, now [0]"]
    assert matrix.differences(stored, stored) == []


def test_every_command_scheme_output_and_normalizer_has_a_cell() -> None:
    from normcli.tensor.normalizers import NORMALIZERS as REGISTERED
    from tests.support.matrix_cells import NORMALIZERS

    assert {name.replace("-", "_") for name in NORMALIZERS} == set(REGISTERED)
    names = [cell.name for cell in cells()]
    assert len(names) == len(set(names))
