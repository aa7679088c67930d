"""The same files packed in every container that normcli reads."""

import csv
import gzip
import json
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support import needs


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tar(folder: Path, out: Path, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> list[Path]:
    path = out / {"w": "a.tar", "w:gz": "a.tar.gz", "w:bz2": "a.tar.bz2", "w:xz": "a.tar.xz"}[mode]
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for file in files_of(folder):
            archive.add(file, str(file.relative_to(folder)))
    return [path]


def tar_zst(folder: Path, out: Path) -> list[Path]:
    zstandard = needs.module("zstandard")
    (plain,) = tar(folder, out)
    path = out / "a.tar.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    plain.unlink()
    return [path]


def webdataset(folder: Path, out: Path, shards: int = 3) -> list[Path]:
    """Pack shards whose samples have their class in .cls or .json."""
    paths = [out / f"shard-{i:03d}.tar" for i in range(shards)]
    with ExitStack() as stack:
        archives = [stack.enter_context(tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)) for path in paths]
        for i, file in enumerate(files_of(folder)):
            archive = archives[i % shards]
            archive.add(file, f"{i:06d}{file.suffix}")
            label = str(file.parent.relative_to(folder))
            note = out / (f"{i:06d}.cls" if i % 2 else f"{i:06d}.json")
            note.write_text(label if i % 2 else json.dumps({"label": label, "width": 1}))
            archive.add(note, note.name)
            note.unlink()
    return paths


def zipped(folder: Path, out: Path, method: int = zipfile.ZIP_DEFLATED) -> list[Path]:
    path = out / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in files_of(folder):
            archive.write(file, str(file.relative_to(folder)))
    return [path]


def hub_table(folder: Path) -> Any:
    """Pack a table as Hugging Face does: a struct of bytes and path, class labels with names in the metadata."""
    pa = needs.module("pyarrow")
    files = files_of(folder)
    names = sorted({str(file.parent.relative_to(folder)) for file in files})
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
            "label": pa.array([names.index(str(file.parent.relative_to(folder))) for file in files], pa.int64()),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(folder: Path, out: Path) -> list[Path]:
    pq = needs.module("pyarrow.parquet")
    path = out / "train-00000-of-00001.parquet"
    pq.write_table(hub_table(folder), path, row_group_size=5)
    return [path]


def arrow(folder: Path, out: Path, name: str = "a.arrow") -> list[Path]:
    pa, table = needs.module("pyarrow"), hub_table(folder)
    with pa.OSFile(str(out / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return [out / name]


def saved_to_disk(folder: Path, out: Path) -> list[Path]:
    """Write one split as `save_to_disk` of the datasets library does."""
    dataset = out / "saved"
    dataset.mkdir()
    (path,) = arrow(folder, dataset, "data-00000-of-00001.arrow")
    (dataset / "state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}], "_split": "train"}))
    return [dataset]


def manifest_csv(folder: Path, out: Path) -> list[Path]:
    path = out / "files.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([str(f), str(f.parent.relative_to(folder))] for f in files_of(folder))
    return [path]


def manifest_jsonl(folder: Path, out: Path) -> list[Path]:
    path = out / "files.jsonl"
    rows = [{"path": str(f), "label": str(f.parent.relative_to(folder))} for f in files_of(folder)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


def gzipped(path: Path) -> Path:
    out = path.with_name(path.name + ".gz")
    out.write_bytes(gzip.compress(path.read_bytes()))
    return out


# name -> (container in normcli.sources.CONTAINERS, how it is packed); the identity test takes every row
ROWS: dict[str, tuple[str, Callable[[Path, Path], list[Path]]]] = {
    "tar": ("tar", tar),
    "tar-ustar": ("tar", lambda folder, out: tar(folder, out, form=tarfile.USTAR_FORMAT)),
    "tar-gnu": ("tar", lambda folder, out: tar(folder, out, form=tarfile.GNU_FORMAT)),
    "tar.gz": ("tar", lambda folder, out: tar(folder, out, "w:gz")),
    "tar.bz2": ("tar", lambda folder, out: tar(folder, out, "w:bz2")),
    "tar.xz": ("tar", lambda folder, out: tar(folder, out, "w:xz")),
    "tar.zst": ("tar", tar_zst),
    "webdataset": ("tar", webdataset),
    "zip": ("zip", zipped),
    "zip-stored": ("zip", lambda folder, out: zipped(folder, out, zipfile.ZIP_STORED)),
    "parquet": ("parquet", parquet),
    "arrow": ("arrow", arrow),
    "saved": ("huggingface", saved_to_disk),
    "csv": ("file_list", manifest_csv),
    "jsonl": ("file_list", manifest_jsonl),
}
