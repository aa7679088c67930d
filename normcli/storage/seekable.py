"""The base of files that are no files of the system: a place and a size."""

import io


class SeekableFile(io.RawIOBase):
    """A raw file with a place that can be set anywhere.

    Attributes:
        size: its length in bytes.
    """

    def __init__(self, size: int = 0) -> None:
        self._at, self.size = 0, size

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at
