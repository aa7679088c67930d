"""The result of a run of apply: the head of its manifest, typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ApplyResult:
    """The images of an output folder, after a run of `apply`.

    Attributes:
        images: images in the output, those of earlier runs included.
        reused: images that earlier runs wrote.
        complete: True where no input failed.
        failed, skipped: numbers of inputs by reason.
        bytes: bytes of the arrays or image files.
        values: sample values written.
        clipped: values that clipping or quantization changed.
        exact: images that `restore` returns bit for bit.
        existing: files that existed before (`skip_existing`) and are not described in the manifest.
        looks_normalized: float images with values of both signs within [-5,5].
        remarks: numbers of images by what is unusual: "nodata" has pixels of the GDAL nodata value, which were mapped
            like all others; "above-range" is float beyond the range of the constants,
            "low-range" 16 bits that never exceed 4095.
        kinds: numbers of images by "CHANNELS x DTYPE" of the source.
        changed: True where images changed after mean and std were computed.
        settings: the options that decide about the outputs.
        constants: mean, std and their origin; None for a scheme without them.
        stack: shape (N,C,H,W) or (N,H,W,C) of the one array; None for other outputs.
        shards: records of the shards; () for other outputs.
        classes: names of the classes that .cls files number; None for other outputs.
        digest: of the encoded images, in any order.
        provenance: versions of what decoded them.
        schema: of the manifest.
    """

    images: int
    reused: int = 0
    complete: bool
    failed: Mapping[str, int]
    skipped: Mapping[str, int]
    bytes: int
    values: int
    clipped: int
    exact: int
    existing: int
    looks_normalized: int
    remarks: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int]
    changed: bool = False
    settings: Mapping[str, Any]
    constants: Mapping[str, Any] | None
    stack: tuple[int, ...] | None = None
    shards: tuple[Mapping[str, Any], ...] = ()
    classes: list[str] | None = None
    digest: str
    provenance: Mapping[str, Any]
    schema: str
    _record: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "ApplyResult":
        """Return the result that a manifest's head describes."""
        names = {f.name for f in fields(cls)} - {"_record", "existing", "stack", "shards"}
        stack = None if record.get("stack") is None else tuple(record["stack"])
        values = {name: value for name, value in record.items() if name in names}
        return cls(
            **values, stack=stack, shards=tuple(record.get("shards") or ()), existing=record["found"], _record=record
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's head, as `apply --json` prints it."""
        return dict(self._record)
