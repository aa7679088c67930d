"""Chunks of HDF5, decoded here: HDF5 inflates one to any size, and has one lock for all threads."""

from math import prod
from typing import Any, NamedTuple

from normcli.errors import InputError
from normcli.sources.chunk_codecs import Chain, decode
from normcli.sources.chunked import region

_HARMLESS = 1 << 16
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3


class ChunkedDataset(NamedTuple):
    """A dataset whose chunks are decoded by us.

    Attributes:
        dataset: as h5py opens it.
        filters: code and first setting of each, in the order of compression.
        file_bytes: of the file.
    """

    dataset: Any
    filters: tuple[tuple[int, int], ...]
    file_bytes: int

    def region(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Any:
        """Read a region, in the order of bytes of the file.

        Raises:
            InputError: a chunk that is damaged or a bomb.
            Exception: those of h5py on damaged files.
        """
        return region(start, stop, self.dataset.chunks, self.dataset.dtype, self._chunk)

    def _chunk(self, chunk: tuple[int, ...]) -> Any:
        place = tuple(i * n for i, n in zip(chunk, self.dataset.chunks, strict=True))
        info = self.dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            return self.dataset.fillvalue
        if info.size > self.file_bytes:
            raise InputError("truncated", f"a chunk of {info.size:,} bytes, more than the file has")
        mask, data = self.dataset.id.read_direct_chunk(place)
        filters = [one for i, one in enumerate(self.filters) if not mask >> i & 1]
        codecs = tuple((_CODECS[code], {"elementsize": setting}) for code, setting in reversed(filters))
        return decode(data, Chain(codecs, self.dataset.dtype.str, tuple(range(len(place)))), self.dataset.chunks)


_CODECS = {_DEFLATE: "zlib", _FLETCHER: "fletcher32", _SHUFFLE: "shuffle"}


def chunked_dataset(dataset: Any, file_bytes: int) -> ChunkedDataset | None:
    """Return a dataset whose chunks are decoded by us; None for one that h5py has to read.

    Raises:
        InputError: chunks that only h5py decodes, and that expand beyond their shape.
    """
    from h5py import h5t

    created, filters = dataset.id.get_create_plist(), list[tuple[int, int]]()
    if not dataset.chunks or dataset.is_virtual:
        return None
    for i in range(created.get_nfilters()):
        code, _, settings, _ = created.get_filter(i)
        filters.append((code, settings[0] if settings else dataset.dtype.itemsize))
    # samples of other bits than those of NumPy's types are converted by HDF5
    same = dataset.id.get_type() == h5t.py_create(dataset.dtype, logical=True)
    if same and all(code in _CODECS for code, _ in filters):
        return ChunkedDataset(dataset, tuple(filters), file_bytes)
    largest = 2 * prod(dataset.chunks) * dataset.dtype.itemsize + _HARMLESS
    if dataset.id.chunk_iter(lambda info: True if info.size > largest else None) is not None:
        raise InputError("bomb", f"a chunk is stored in more than the {largest:,} bytes that its shape allows")
    return None
