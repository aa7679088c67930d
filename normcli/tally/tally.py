"""The tally of a set of images: buckets by channels and depth, notes, failures, groups and a digest."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from normcli.storage.files import digest
from normcli.tally.floats import Floats
from normcli.tally.groups import Group
from normcli.tally.integers import MOST_SMALL, CountedImage, ImageMoments, Integers

Array = np.ndarray[Any, Any]

DIGEST_MODULUS = 1 << 128
_KINDS = {"B": "uint8", "H": "uint16", "f": "float", "d": "float", "h": "float"}  # of dtype.char; dtype.name takes 6 us

Bucket = Integers | Floats


class Tally:
    """Exact counts of any set of images; `a + b` and `a - b` are the counts of the union and difference.

    Each number of channels and each depth has a bucket of its own, so that one pass can count a mixed folder.

    >>> import numpy as np
    >>> a, b = Tally(), Tally()
    >>> _ = a.count(np.zeros((2, 2, 3), np.uint8)); _ = b.count(np.ones((4, 4, 1), np.uint16))
    >>> (a + b).images, ((a + b) - b).state() == a.state()
    (2, True)
    """

    def __init__(self) -> None:
        self.buckets: dict[tuple[int, str, int], Bucket] = {}
        self._composition: Counter[str] = Counter()
        self._noted: Counter[tuple[str, ...]] = Counter()  # not yet in the composition
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.digest = 0
        self.groups: dict[str, Group] = {}

    def empty(self) -> "Tally":
        """Return an empty tally of the same kind."""
        return Tally()

    def select(self, block: tuple[Array, Array | None, Array | None], group: str | None) -> None:
        """Look at pixels, weights and valid samples that are counted elsewhere; only a `SecondPass` does."""

    @property
    def images(self) -> int:
        """Return the number of images counted."""
        return sum(bucket.images for bucket in self.buckets.values())

    def compute_per_image(self) -> None:
        """Compute the per-image values of the images that wait for it, all at once."""
        for bucket in self.buckets.values():
            _ = bucket.per_image

    @property
    def composition(self) -> Counter[str]:
        """Return the number of images by note."""
        for notes, images in self._noted.items():
            for note in notes:
                self._composition[note] += images
        self._noted.clear()
        return self._composition

    def count(
        self,
        pixels: Array,
        weights: Array | None = None,
        valid: Array | None = None,
        *,
        nan: str = "error",
        notes: tuple[str, ...] = (),
        data: bytes | memoryview | None = None,
        group: str | None = None,
        moments: bool = False,
    ) -> ImageMoments | None:
        """Add one image.

        Args:
            pixels: (H,W,C) of uint8, uint16, float32 or float64; of int16 without weights, counted as floats.
            weights: (H,W) of the same integer dtype, or None.
            valid: bool (H,W,C), True where a sample counts in its channel; None where all do.
            nan: treatment of a NaN or infinity: "error" or "skip" (in that channel).
            notes: properties that the composition counts, such as "mode:RGB".
            data: the encoded bytes, for the digest.
            group: the group that the image belongs to, if any.
            moments: compute the image's own moments, at some cost.

        Returns:
            The image's own moments; None for integer images unless `moments` asks for them.

        Raises:
            InputError: see `nan`, or no sample is valid; the tally is then unchanged.
        """
        if valid is not None and valid.all():
            valid = None
        key, bucket = self._bucket(pixels, weights)
        added = 0 if data is None else digest(data)  # first: it can find no memory
        image: CountedImage | None = None
        if valid is not None:
            image = _count_valid(bucket, pixels, weights, valid, nan)
        elif isinstance(bucket, Floats):
            image = bucket.count(pixels, nan, group=group is not None)
        elif group is None and not moments and weights is None and bucket.gathers and pixels.size <= MOST_SMALL:
            bucket.count_later([pixels.tobytes()])
        else:
            own = None if group is None else bucket.bins()
            counted, sums = bucket.count(pixels, weights, own)
            values = bucket.moments(counted, sums, pixels, weights) if moments else None
            image = CountedImage(counted, sums, own, moments=values)
        self.buckets[key] = bucket
        if group is not None and image is not None:
            self.count_in_group(group, key, image)
        self._noted[notes] += 1
        self.digest = (self.digest + added) % DIGEST_MODULUS
        return None if image is None else image.moments

    def count_plain(self, pixels: Array, notes: tuple[str, ...], data: bytes | None) -> None:
        """Add one image as `count` does: of uint8, every pixel with a weight of 1, without a group.

        Args:
            pixels: uint8 (H,W,C).
            notes: properties that the composition counts.
            data: the encoded bytes, for the digest; None if they come by `add_digests`.
        """
        key = pixels.shape[2], "uint8", 1
        bucket: Any = self.buckets.get(key) or Integers(*key)
        added = 0 if data is None else digest(data)  # first: it can find no memory
        if bucket.gathers and pixels.size <= MOST_SMALL:
            bucket.count_later([pixels.tobytes()])
        else:
            bucket.count_plain(pixels)
        self.buckets[key] = bucket
        self._noted[notes] += 1
        self.digest = (self.digest + added) % DIGEST_MODULUS

    def add_digests(self, data: list[bytes]) -> None:
        """Add the digests of images that are counted without their encoded bytes."""
        self.digest = (self.digest + sum(map(digest, data))) % DIGEST_MODULUS

    def count_small(
        self,
        images: list[bytes],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        notes: tuple[str, ...],
        data: list[bytes] | None = None,
    ) -> list[int]:
        """Add small images of one size, as `count` does.

        Args:
            images: their samples, channels interleaved.
            shape: pixels and channels of each.
            dtype: uint8, float32 or float64.
            notes: properties of each that the composition counts.
            data: the encoded bytes of each; None for their samples, as with floats.

        Returns:
            The positions of those that have to be counted one by one, and are not counted here: floats of a wide range
            or with NaN.
        """
        key = shape[1], _KINDS[dtype.char], 1
        bucket = self.buckets.get(key) or (Floats(shape[1]) if key[1] == "float" else Integers(*key))
        left: list[int] = []
        if isinstance(bucket, Integers):
            bucket.count_later(images)
        else:
            from normcli.tally.small_floats import count_small_floats

            counted = count_small_floats(bucket, np.frombuffer(b"".join(images), dtype).reshape(-1, *shape))
            left = np.flatnonzero(~counted).tolist()
            images = [image for image, is_counted in zip(images, counted.tolist(), strict=True) if is_counted]
            if not images:
                return left
        self.buckets[key] = bucket
        self._noted[notes] += len(images)
        self.add_digests(data or images)
        return left

    def _bucket(self, pixels: Array, weights: Array | None) -> tuple[tuple[int, str, int], Bucket]:
        """Return the key and the bucket of an image, which may be a new one."""
        unit = 1 if weights is None else int(np.iinfo(weights.dtype).max)
        key = (pixels.shape[2], _KINDS[pixels.dtype.char], unit)
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = Floats(key[0]) if key[1] == "float" else Integers(*key)
        return key, bucket

    def count_blocks(
        self,
        blocks: Iterable[tuple[Array, Array | None, Array | None]],
        *,
        nan: str = "error",
        notes: Callable[[], tuple[str, ...]] = tuple,
        digest: int = 0,
        group: str | None = None,
    ) -> ImageMoments | None:
        """Add one image that comes in blocks, with the same result as `count` of the complete image.

        Args:
            blocks: pixels, weights and valid samples of each, as `count` takes them.
            nan: as `count` takes it.
            notes: returns the properties that the composition counts, after the last block.
            digest: of the encoded bytes.
            group: the group that the image belongs to, if any.

        Returns:
            The image's own moments.

        Raises:
            InputError: as `count`; the tally is then unchanged.
        """
        from normcli.tally.blocks import BlockCounts

        counts: BlockCounts | None = None
        for pixels, weights, valid in blocks:
            if counts is None:
                key, bucket = self._bucket(pixels, weights)
                counts = BlockCounts(bucket, nan)
            counts.add(pixels, weights, valid)
        assert counts is not None, "an image has a block"
        image = counts.finish(bucket)
        self.buckets[key] = bucket
        if group is not None:
            self.count_in_group(group, key, image)
        self._noted[notes()] += 1
        self.digest = (self.digest + digest) % DIGEST_MODULUS
        return image.moments

    def count_in_group(self, group: str, key: tuple[int, str, int], image: CountedImage) -> None:
        """Add one image to a group, which its bucket has counted."""
        self.groups.setdefault(group, Group()).count(key, image)

    def __add__(self, other: "Tally") -> "Tally":
        union = Tally()
        union.add(self)
        union.add(other)
        return union

    def __sub__(self, other: "Tally") -> "Tally":
        difference = Tally()
        difference.add(self)
        difference.add(other, -1)
        return difference

    def add(self, other: "Tally", sign: int = 1) -> None:
        """Add another tally in place, or subtract it with sign -1; buckets left empty are dropped."""
        for key, addend in other.buckets.items():
            bucket = self.buckets.get(key)
            if bucket is None:
                bucket = self.buckets[key] = Floats(key[0]) if key[1] == "float" else Integers(*key)
            bucket.add(addend, sign)  # type: ignore[arg-type]
            if bucket.is_empty():
                del self.buckets[key]
        for name in ("composition", "failed", "skipped"):
            counter, addends = getattr(self, name), getattr(other, name)
            for key_, count in addends.items():
                counter[key_] += sign * count
                if counter[key_] == 0:
                    del counter[key_]
        self.digest = (self.digest + sign * other.digest) % DIGEST_MODULUS
        for name, group in other.groups.items():
            own_group = self.groups.setdefault(name, Group())
            own_group.add(group, sign)
            if not own_group.parts:
                del self.groups[name]

    def is_valid(self) -> bool:
        """Return True if this can be the tally of some images: false after subtracting images that were not in it."""
        counters = (self.composition, self.failed, self.skipped)
        return (
            all(bucket.is_valid() for bucket in self.buckets.values())
            and self._notes_agree()
            and all(count >= 0 for counter in counters for count in counter.values())
            and all(group.is_valid() for group in self.groups.values())
        )

    def _notes_agree(self) -> bool:
        """Return True if every image has one format, one mode and one depth, where these were noted at all."""
        images = self.images
        sums: Counter[str] = Counter()
        for note, count in self.composition.items():
            kind_, colon, _ = note.partition(":")
            sums[kind_] += count if colon else 0
            if count > images:
                return False
        return all(total in (0, images) for kind_, total in sums.items() if kind_ in ("format", "mode", "depth"))

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values, in one order for all orders of counting."""
        state: dict[str, Any] = {
            "buckets": [self.buckets[key].state() for key in sorted(self.buckets)],
            "composition": dict(sorted(self.composition.items())),
            "failed": dict(sorted(self.failed.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "digest": f"{self.digest:032x}",
        }
        if self.groups:
            state["groups"] = {name: self.groups[name].state() for name in sorted(self.groups)}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Tally":
        """Rebuild a tally from its `state`.

        Raises:
            ValueError, KeyError, TypeError: not the state of a tally.
        """
        tally = cls()
        for entry in state["buckets"]:
            bucket: Bucket = Floats.from_state(entry) if entry["dtype"] == "float" else Integers.from_state(entry)
            tally.buckets[bucket.channels, bucket.dtype, bucket.unit] = bucket
        for name in ("composition", "failed", "skipped"):
            getattr(tally, name).update({str(k): int(v) for k, v in state[name].items()})
        tally.digest = int(state["digest"], 16)
        for name, group in state.get("groups", {}).items():
            tally.groups[name] = Group.from_state(group)
        if not tally.is_valid():
            raise ValueError("inconsistent counts")
        return tally


def _count_valid(bucket: Bucket, pixels: Array, weights: Array | None, valid: Array, nan: str) -> CountedImage:
    from normcli.tally.valid import count_valid, nothing_valid

    if not valid.any():
        raise nothing_valid()
    return count_valid(bucket, pixels, weights, valid, nan)


def bucket_dtype(pixels: Array) -> str:
    """Return the type of the bucket that pixels are counted in: "uint8", "uint16" or "float"."""
    return _KINDS[pixels.dtype.char]
