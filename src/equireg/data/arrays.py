"""The four arrays of a data set: read from IDX, NumPy and safetensors files, and checked.

Images are pixels, (count, channels, side, side) of uint8, or, for networks of one's own, inputs of
any shape, (count, ...) of float32. Labels are classes, (count,) of uint8, or what a regression is
to say, (count, k) of float32, where masks have more axes.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from equireg.plan import ARRAYS, DATA_FILES, data_files
from equireg.settings import SourceSettings

Arrays = dict[str, np.ndarray]

IDX_NAMES = dict(zip(ARRAYS, DATA_FILES, strict=True))


def read_arrays(data: SourceSettings) -> Arrays:
    """The arrays in ``data.file``, or in the .npy files of ``data.folder``; checked.

    Nothing in them is run: pickled objects are refused. Raises ValueError or OSError, one line that
    names the file.
    """
    if data.file is None:
        arrays = {n: a for file in data_files(data) for n, a in _loaded(Path(file)).items()}
        return checked(arrays, {name: f"{name}.npy" for name in ARRAYS}, str(data.folder))
    file = Path(data.file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    return checked(_loaded(file), {name: f"{file.name}: {name}" for name in ARRAYS}, str(file))


def _loaded(file: Path) -> Arrays:
    """What the file holds, by name; a single array has the file's."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.numpy.load_file(file)
        with file.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            several = isinstance(loaded, np.lib.npyio.NpzFile)
            return dict(loaded) if several else {file.stem: loaded}
    except PermissionError:
        raise
    # All that the readers raise for files that others bring: zipfile a NotImplementedError for a
    # compression that it does not know, NumPy an AttributeError or TypeError for a broken header.
    except (
        *(SafetensorError, zipfile.BadZipFile, zlib.error, EOFError, OSError),
        *(ValueError, KeyError, TypeError, AttributeError, NotImplementedError),
    ) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file.name}: cannot be read ({said})") from None


def checked(arrays: Mapping[str, np.ndarray], names: Mapping[str, str], where: str) -> Arrays:
    """The four arrays as they are stored, without an axis that is missing or of another width.

    names: what an array is called in a message. Raises ValueError where one is missing, is no
    image or label, or does not fit the others.
    """
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise ValueError(
            f"{where}: has no {missing[0]}; it holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"accepted: {', '.join(ARRAYS)}"
        )
    found: Arrays = {}
    for part in ("train", "test"):
        images = _images(arrays[f"{part}_images"], names[f"{part}_images"])
        labels = _labels(arrays[f"{part}_labels"], names[f"{part}_labels"])
        if part == "train" and labels.dtype == np.uint8 and len(labels) and labels.min():
            raise ValueError(
                f"{names['train_labels']}: the smallest label is {labels.min()}; accepted: labels "
                "that start at 0; subtract it from every label, as EMNIST's letters need, whose "
                "labels are 1 to 26"
            )
        if len(labels) != len(images):
            raise ValueError(
                f"{names[f'{part}_labels']}: {len(labels)} labels; "
                f"expected {len(images)}, as images"
            )
        found |= {f"{part}_images": images, f"{part}_labels": labels}
    for kind in ("images", "labels"):
        train, test = found[f"train_{kind}"], found[f"test_{kind}"]
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise ValueError(
                f"{names[f'test_{kind}']}: {kind} of {_spelled(test)}; expected {_spelled(train)}, "
                "as for training"
            )
    return found


def _images(images: np.ndarray, name: str) -> np.ndarray:
    """Pixels with an axis of channels, or numbers."""
    if np.issubdtype(images.dtype, np.floating):
        if images.ndim < 2 or not images.size:
            raise ValueError(
                f"{name}: numbers {images.shape}; accepted: (count, ...), at least one"
            )
        return _numbers(images, name)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{name}: {images.dtype} {images.shape}; accepted: pixels of uint8, (count, side, "
            "side) or (count, channels, side, side); or, for a network of your own, floats "
            "(count, ...)"
        )
    *_, height, width = images.shape
    if 0 in images.shape or height != width:
        last = ", channels before the pixels" if images.shape[-1] in (1, 3, 4) else ""
        raise ValueError(
            f"{name}: {len(images)} images of {height}x{width} pixels; accepted: at least one "
            f"image, square{last}"
        )
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else images)


def _labels(labels: np.ndarray, name: str) -> np.ndarray:
    """Classes, or numbers."""
    if np.issubdtype(labels.dtype, np.floating) and labels.ndim > 1 and labels.size:
        return _numbers(labels, name)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise ValueError(
            f"{name}: {labels.dtype} {labels.shape}; accepted: classes, (count,) of integers; or, "
            "for a regression, floats (count, k)"
        )
    for label in (labels.min(), labels.max()) if len(labels) else ():
        if not 0 <= label <= 255:
            raise ValueError(f"{name}: a label is {label}; accepted: 0 to 255")
    return np.ascontiguousarray(labels.astype(np.uint8))


def _numbers(numbers: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(numbers, np.float32)
    if not np.isfinite(found).all():
        first = tuple(map(int, np.argwhere(~np.isfinite(found))[0]))
        raise ValueError(f"{name}: {list(first)} is {numbers[first]}; accepted: finite float32")
    return found


def _spelled(array: np.ndarray) -> str:
    """What each item of an array is: ``28x28 pixels``, ``3 channels of 28x28 pixels``."""
    if array.ndim == 4 and array.dtype == np.uint8:
        _, channels, height, width = array.shape
        of = f"{channels} channels of " if channels > 1 else ""
        return f"{of}{height}x{width} pixels"
    shape = "x".join(map(str, array.shape[1:]))
    return f"{shape} {array.dtype} numbers" if shape else "classes"


def describe(content: bytes) -> str:
    """What came, in a few words: an HTML page or a short file is recognized by them."""
    return f"{len(content)} bytes, beginning {content[:16]!r}"


def parse_idx(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The array of an IDX file of unsigned bytes: two zeros, the type 8, the number of dimensions,
    each length as 4 bytes (big end first), then the entries, and nothing after them.

    Raises ValueError, naming the file, on anything else.
    """
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{name}: not an IDX file of bytes in {dimensions} dimensions, which begins {magic!r}; "
            f"got {describe(content)}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{name}: {len(content)} bytes; expected {start + math.prod(shape)} for the "
            f"dimensions {'x'.join(map(str, shape))} that it states"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def decode(files: Mapping[str, bytes]) -> Arrays:
    """The arrays of four IDX files, checked."""
    dimensions = {"images": 3, "labels": 1}
    arrays = {
        name: parse_idx(files[file], dimensions[name.partition("_")[2]], file)
        for name, file in IDX_NAMES.items()
    }
    return checked(arrays, IDX_NAMES, "the folder")
