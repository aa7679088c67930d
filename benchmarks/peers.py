"""Programs that people use today, each as its users write it, and the work that no such program can avoid.

Run as `python -m benchmarks.peers NAME FOLDER`: one process for each measurement, its start included.
"""

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORKERS = 2


def files(folder: str) -> list[str]:
    """List every file below a folder."""
    return sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)


def _in_threads(paths: list[str], one: Callable[[str], Any]) -> list[Any]:
    """Call a function of a path in two threads, each with every second path."""

    def work(start: int) -> list[Any]:
        return [one(path) for path in paths[start::WORKERS]]

    with ThreadPoolExecutor(WORKERS) as executor:
        return [result for results in executor.map(work, range(WORKERS)) for result in results]


def floor(folder: str) -> None:
    """Read and decode, 2 threads.

    simplejpeg for JPEG, Pillow for the rest; nothing is counted.
    """
    import numpy as np
    import simplejpeg
    from PIL import Image

    def one(path: str) -> None:
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] == b"\xff\xd8":
            simplejpeg.decode_jpeg(data)
        else:
            np.asarray(Image.open(io.BytesIO(data)))

    _in_threads(files(folder), one)


def dataloader(folder: str) -> None:
    """PyTorch DataLoader, 2 workers."""
    _dataloader(folder, batch=1)


def dataloader_batches(folder: str) -> None:
    """PyTorch DataLoader, 2 workers, batches of 64 equal images."""
    _dataloader(folder, batch=64)


def _dataloader(folder: str, batch: int) -> None:
    import numpy as np
    import torch
    from PIL import Image

    class Images(torch.utils.data.Dataset):  # type: ignore[misc]
        def __init__(self) -> None:
            self.paths = files(folder)

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            with Image.open(self.paths[index]) as image:
                array = np.array(image.convert("RGB"))
            return torch.from_numpy(array).permute(2, 0, 1).float().div(255)

    loader = torch.utils.data.DataLoader(Images(), batch_size=batch, num_workers=WORKERS)
    total, squares, pixels = torch.zeros(3), torch.zeros(3), 0
    for images in loader:
        total += images.sum(dim=(0, 2, 3))
        squares += (images**2).sum(dim=(0, 2, 3))
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
    mean = total / pixels
    print(mean, (squares / pixels - mean**2).sqrt())


def pil_numpy(folder: str) -> None:
    """Pillow + NumPy loop."""
    import numpy as np
    from PIL import Image

    total, squares, pixels = np.zeros(3), np.zeros(3), 0
    for path in files(folder):
        array = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
        total += array.sum(axis=(0, 1))
        squares += (array**2).sum(axis=(0, 1))
        pixels += array.shape[0] * array.shape[1]
    mean = total / pixels
    print(mean, np.sqrt(squares / pixels - mean**2))


def _mean_and_std(path: str) -> Any:
    import cv2

    return cv2.meanStdDev(cv2.imread(path))


def _print_averages(results: Any) -> None:
    import numpy as np

    means, stds = zip(*results, strict=True)
    print(np.mean(means, axis=0), np.mean(stds, axis=0))


def opencv(folder: str) -> None:
    """OpenCV imread + meanStdDev loop."""
    _print_averages(map(_mean_and_std, files(folder)))


def opencv_threads(folder: str) -> None:
    """OpenCV imread + meanStdDev, 2 threads."""
    _print_averages(_in_threads(files(folder), _mean_and_std))


def opencv_processes(folder: str) -> None:
    """OpenCV imread + meanStdDev, 2 processes."""
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        _print_averages(pool.imap_unordered(_mean_and_std, files(folder), chunksize=64))


def turbojpeg(folder: str) -> None:
    """NumPy sums of libjpeg-turbo (simplejpeg), 2 threads."""
    import numpy as np
    import simplejpeg

    def one(path: str) -> Any:
        with open(path, "rb") as file:
            pixels = simplejpeg.decode_jpeg(file.read()).reshape(-1, 3)
        wide = pixels.astype(np.uint32)
        return wide.sum(axis=0), (wide * wide).sum(axis=0), len(pixels)

    total, squares, counts = zip(*_in_threads(files(folder), one), strict=True)
    mean = sum(total) / sum(counts)
    print(mean, np.sqrt(sum(squares) / sum(counts) - mean**2))


def torchvision(folder: str) -> None:
    """Sums by torch of torchvision decode_jpeg, 2 threads."""
    import torch
    from torchvision.io import decode_jpeg, read_file  # type: ignore[import-untyped,import-not-found,unused-ignore]

    torch.set_num_threads(1)

    def one(path: str) -> Any:
        pixels = decode_jpeg(read_file(path)).float()
        return pixels.sum(dim=(1, 2)), (pixels * pixels).sum(dim=(1, 2)), pixels.shape[1] * pixels.shape[2]

    total, squares, counts = zip(*_in_threads(files(folder), one), strict=True)
    mean = sum(total) / sum(counts)
    print(mean, (sum(squares) / sum(counts) - mean**2).sqrt())


def imagestat(folder: str) -> None:
    """Pillow ImageStat loop."""
    from PIL import Image, ImageStat

    rows = [ImageStat.Stat(Image.open(path).convert("RGB")) for path in files(folder)]
    print([sum(row.mean[c] for row in rows) / len(rows) for c in range(3)])


def scikit(folder: str) -> None:
    """scikit-learn partial_fit loop."""
    import numpy as np
    from PIL import Image
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for path in files(folder):
        scaler.partial_fit(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) / 255)
    print(scaler.mean_, scaler.scale_)


def vips(folder: str) -> None:
    """Loop over the stats of libvips."""
    import pyvips

    rows = [pyvips.Image.new_from_file(path, access="sequential").stats().numpy() for path in files(folder)]
    print(sum(row[0, 4] for row in rows) / len(rows))


def magick(folder: str) -> None:
    """ImageMagick identify."""
    command = ["identify", "-format", "%[mean] %[standard-deviation]\\n", *files(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


NEEDS = {
    "dataloader": "torch",
    "dataloader_batches": "torch",
    "opencv": "cv2",
    "opencv_threads": "cv2",
    "opencv_processes": "cv2",
    "scikit": "sklearn",
    "vips": "pyvips",
}
PEERS: dict[str, Callable[[str], None]] = {
    "floor": floor,
    "opencv_threads": opencv_threads,
    "opencv_processes": opencv_processes,
    "opencv": opencv,
    "turbojpeg": turbojpeg,
    "torchvision": torchvision,
    "vips": vips,
    "dataloader": dataloader,
    "dataloader_batches": dataloader_batches,
    "pil_numpy": pil_numpy,
    "imagestat": imagestat,
    "scikit": scikit,
    "magick": magick,
}
SLOW = ("dataloader", "dataloader_batches", "pil_numpy", "imagestat", "scikit", "vips", "magick")


def title(name: str) -> str:
    """Return the first line of a peer's docstring, without its full stop."""
    return (PEERS[name].__doc__ or name).partition("\n")[0].rstrip(".")


def installed() -> list[str]:
    """List the names of the peers that can run here."""
    return [name for name in PEERS if _can_run(name)]


def _can_run(name: str) -> bool:
    from importlib.util import find_spec

    if name == "magick":
        return shutil.which("identify") is not None
    if name == "torchvision":  # its compiled part loads beside the torch that it was built for alone
        code = "import torch, torchvision.io; torch.ops.image.decode_jpeg"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    return name not in NEEDS or find_spec(NEEDS[name]) is not None


if __name__ == "__main__":
    PEERS[sys.argv[1]](sys.argv[2])
