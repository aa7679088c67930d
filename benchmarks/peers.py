"""What people run today, each the way its users write it, and the floors under any such tool.

Run as `python -m benchmarks.peers NAME FOLDER`: one process a measurement, its start included.
"""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def files(folder: str) -> list[str]:
    """Every file below a folder."""
    return sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)


def _halves(paths: list[str], one: Callable[[str], Any]) -> None:
    def work(start: int) -> None:
        for path in paths[start::2]:
            one(path)

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(work, range(2)))


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

    _halves(files(folder), one)


def dataloader(folder: str) -> None:
    """PyTorch DataLoader, 2 workers."""
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

    loader = torch.utils.data.DataLoader(Images(), batch_size=1, num_workers=2)
    total, squares, pixels = torch.zeros(3), torch.zeros(3), 0
    for batch in loader:
        total += batch.sum(dim=(0, 2, 3))
        squares += (batch**2).sum(dim=(0, 2, 3))
        pixels += batch.shape[0] * batch.shape[2] * batch.shape[3]
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


def opencv(folder: str) -> None:
    """OpenCV imread + meanStdDev loop."""
    import cv2
    import numpy as np

    means, stds = [], []
    for path in files(folder):
        mean, std = cv2.meanStdDev(cv2.imread(path))
        means.append(mean)
        stds.append(std)
    print(np.mean(means, axis=0), np.mean(stds, axis=0))


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
    """Libvips stats loop."""
    import pyvips

    rows = [pyvips.Image.new_from_file(path, access="sequential").stats().numpy() for path in files(folder)]
    print(sum(row[0, 4] for row in rows) / len(rows))


def magick(folder: str) -> None:
    """ImageMagick identify."""
    command = ["identify", "-format", "%[mean] %[standard-deviation]\\n", *files(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


NEEDS = {"dataloader": "torch", "opencv": "cv2", "scikit": "sklearn", "vips": "pyvips"}
PEERS: dict[str, Callable[[str], None]] = {
    "floor": floor,
    "dataloader": dataloader,
    "opencv": opencv,
    "pil_numpy": pil_numpy,
    "imagestat": imagestat,
    "scikit": scikit,
    "vips": vips,
    "magick": magick,
}
SLOW = ("dataloader", "pil_numpy", "imagestat", "scikit", "vips", "magick")


def title(name: str) -> str:
    """The first line of a peer's docstring, without its full stop."""
    return (PEERS[name].__doc__ or name).partition("\n")[0].rstrip(".")


def installed() -> Iterator[str]:
    """Names of the peers that can run here."""
    from importlib.util import find_spec

    found = (name for name in PEERS if name not in NEEDS or find_spec(NEEDS[name]))
    return (name for name in found if name != "magick" or shutil.which("identify"))


if __name__ == "__main__":
    PEERS[sys.argv[1]](sys.argv[2])
