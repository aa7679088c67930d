"""Volumes against nibabel and NumPy, and sparse arrays in chunks: time and memory."""

import argparse
import gzip
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.timing import PYTHON, Row, alternating, peak_megabytes, show, stats_command, takes

_READ = "import nibabel, sys; nibabel.load(sys.argv[1]).get_fdata()"
_NARROW = "import nibabel, sys; nibabel.load(sys.argv[1]).get_fdata(dtype='float32')"
_STORED = "import nibabel, numpy, sys; numpy.array(nibabel.load(sys.argv[1]).dataobj.get_unscaled())"
_MEAN = (
    "import nibabel, numpy, sys; values = numpy.asanyarray(nibabel.load(sys.argv[1]).dataobj);"
    "print(values.mean(dtype='float64'), values.std(dtype='float64'))"
)
_PEERS = {
    "nibabel, get_fdata": _READ,
    "nibabel, get_fdata of float32": _NARROW,
    "nibabel, samples as stored": _STORED,
    "nibabel + NumPy mean and std": _MEAN,
}
_BOUNDED = ("nibabel, get_fdata", "nibabel + NumPy mean and std")


def main(arguments: list[str]) -> list[Row]:
    """Print ratios to nibabel for a volume, plain and gzipped, and the memory of sparse arrays of 10 GB."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks volumes", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000, help="of the volume")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as there:
        rows = show(_times(Path(there), chosen.megabytes, chosen.rounds))
        return rows + show(_sparse(Path(there)))


def _times(there: Path, megabytes: int, rounds: int) -> Iterator[Row]:
    try:
        import nibabel
    except ImportError:
        print("  nibabel is absent")
        return
    slices = np.random.default_rng(0).normal(300, 120, (512, 512, 100)).clip(-1024, 3000).astype(np.int16)
    slices[:120] = -1024
    path = there / "ct.nii"
    voxels = np.concatenate([slices + np.int16(i) for i in range(max(1, megabytes * 10**6 // slices.nbytes))], axis=2)
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)
    size = voxels.nbytes / 1e9
    del voxels, slices  # a reader of 4 GB takes twice as long on a machine that is short of memory
    (there / "ct.nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    for name in ("ct.nii", "ct.nii.gz"):
        commands = {"normcli": stats_command(there / name)}
        commands |= {peer: [PYTHON, "-c", code, str(there / name)] for peer, code in _PEERS.items()}
        times = alternating(commands, rounds)
        for peer in _PEERS:
            bound = 1.3 if peer in _BOUNDED else None
            yield takes(f"stats, {size:.1f} GB of CT in {name[2:]}", peer, times["normcli"], times[peer], bound)


def _sparse(there: Path) -> Iterator[Row]:
    shape, chunks = (640, 2048, 8192), (8, 256, 256)
    try:
        import h5py
        import zarr
    except ImportError as error:
        print(f"  {error.name} is absent")
        return
    with h5py.File(there / "a.h5", "w") as file:
        file.create_dataset("images", shape, np.uint8, chunks=chunks, compression="gzip")
    zarr.create_array(there / "a.zarr", shape=shape, dtype="u1", chunks=chunks)
    for name in ("a.h5", "a.zarr"):
        used = peak_megabytes(
            [sys.executable, "-m", "normcli", "stats", str(there / name), "-O", "axes=NYX", "-j", "2"]
        )
        work = f"memory, sparse {name[1:]} of 10 GB"
        yield Row(work, "all resident pages", f"{used:.0f} MB", "<= 300 MB", used <= 300)
