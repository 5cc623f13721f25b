"""The layouts in which CIFAR-10 comes, all turned into the one in which it is kept."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vigil.errors import DataError
from vigil.images.archives import read_batch, read_tar
from vigil.images.raw import add_to_tar
from vigil.images.readers import cifar10
from vigil.images.readers.rows import files_in
from vigil.progress import track

_BATCH_SPLITS = {f"data_batch_{number}": "train" for number in range(1, 6)} | {"test_batch": "test"}
_LABEL_FILE = "batches.meta"
_BATCH_FOLDER = "cifar-10-batches-py"
_MAX_BATCH_BYTES = 256 << 20
_SHAPE = (3, 32, 32)
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
_ARCHIVE_OF = {split: archive for archive, split in cifar10.ARCHIVES.items()}


class _ImageTars(ExitStack):
    """The archives being written, one per split, opened when their first image comes."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._open: dict[str | None, tarfile.TarFile] = {}
        self._names: defaultdict[str | None, set[str]] = defaultdict(set)

    def add(self, split: str | None, class_name: str, file_name: str, content: bytes) -> None:
        """Adds an encoded image.

        Raises:
            DataError: The class is none of CIFAR-10's, or the name is taken.
        """
        name = f"{class_name}/{file_name}"
        if class_name not in cifar10.CLASSES:
            raise DataError(f"{name}: '{class_name}' is no class of CIFAR-10 ({', '.join(cifar10.CLASSES)})")
        if name in self._names[split]:
            raise DataError(f"{name}: occurs twice in the split '{split}'")
        self._names[split].add(name)
        if split not in self._open:
            tar = tarfile.open(self._folder / _ARCHIVE_OF[split], "w:")  # noqa: SIM115 - this stack closes it
            self._open[split] = self.enter_context(tar)
        add_to_tar(self._open[split], name, content)


_Add = Callable[[str | None, str, str, bytes], None]


def write_archives(source: Path, folder: Path) -> None:
    """Writes one uncompressed tar per split into `folder`, with every image of `source`, as `<class>/<file>`.

    Images keep their encoded bytes; the pixels of the official python batches become lossless PNGs.

    Raises:
        DataError: `source` has none of the layouts that `import_data` names, is damaged or unsafe, or holds an image
            outside of CIFAR-10's ten classes.
    """
    with _ImageTars(folder) as tars:
        _read(source, tars.add)


def _read(source: Path, add: _Add) -> None:
    """Hands every image of `source` to `add`, whichever of the layouts it has."""
    if source.is_file():
        _read_archive(source, add)
    elif any((source / name).is_file() for name in _BATCH_SPLITS):
        _read_batches(source, add)
    elif (source / _BATCH_FOLDER).is_dir():
        _read_batches(source / _BATCH_FOLDER, add)
    elif archives := [p for p in sorted(source.iterdir()) if p.is_file() and p.name.endswith(_ARCHIVE_SUFFIXES)]:
        for archive in archives:
            _read_archive(archive, add)
    else:
        default = source.name if source.name in ("train", "test") else None
        for path, _ in files_in(source, ""):
            origin = (source / path).resolve()
            if not origin.is_relative_to(source.resolve()):
                raise DataError(f"{source / path}: a symbolic link that leads out of {source}")
            _add_image(PurePosixPath(path), origin.read_bytes(), default, add)


def _read_archive(archive: Path, add: _Add) -> None:
    """Images are handed on as they come; official batches are kept in a temporary folder until all are there."""
    default = archive.name.split(".")[0]
    with tempfile.TemporaryDirectory() as scratch:
        batches = Path(scratch)
        for name, content in read_tar(archive):
            if name.name in _BATCH_SPLITS or name.name == _LABEL_FILE:
                (batches / name.name).write_bytes(content)
            else:
                _add_image(name, content, default if default in ("train", "test") else None, add)
        if any(batches.iterdir()):
            _read_batches(batches, add)


def _add_image(path: PurePosixPath, content: bytes, default_split: str | None, add: _Add) -> None:
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        return
    if len(path.parts) < 2:
        raise DataError(f"{path}: lies in no class folder; expected <split>/<class>/<file>")
    named = path.parts[-3] if len(path.parts) > 2 else None
    add(named if named in ("train", "test") else default_split, path.parts[-2], path.name, content)


def _read_batches(folder: Path, add: _Add) -> None:
    """The official python batches: pixels become lossless PNGs `<class>/<place in the split>.png`."""
    names = _load_batch(folder / _LABEL_FILE).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{folder.name}/{_LABEL_FILE}: expected a list 'label_names'")
    classes = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    place: Counter[str] = Counter()
    for batch, split in _BATCH_SPLITS.items():
        if not (folder / batch).is_file():
            continue
        images, labels = _batch_images(_load_batch(folder / batch), len(classes), batch)
        for image, label in track(zip(images, labels, strict=True), batch, len(labels), "images"):
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, format="PNG")
            add(split, classes[label], f"{place[split]:05d}.png", encoded.getvalue())
            place[split] += 1


def _load_batch(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path.name}: not found among the CIFAR-10 batches; expected data_batch_1..5, test_batch and {_LABEL_FILE}"
        )
    if path.stat().st_size > _MAX_BATCH_BYTES:
        raise DataError(f"{path.name}: larger than {_MAX_BATCH_BYTES} bytes; this is no CIFAR-10 batch")
    return read_batch(path.read_bytes(), path.name)


def _batch_images(values: dict[str, Any], classes: int, where: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Images [N, 32, 32, 3] and labels of one batch, checked."""
    data, labels = values.get("data"), values.get("labels")
    size = int(np.prod(_SHAPE))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != size:
        shown = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{where}: expected 'data' as uint8 [N, {size}], found {shown}")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"{where}: expected a list of {len(data)} 'labels'")
    if not all(isinstance(label, int) and 0 <= label < classes for label in labels):
        raise DataError(f"{where}: expected labels from 0 to {classes - 1}")
    return np.ascontiguousarray(data.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)), labels
