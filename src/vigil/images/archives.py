"""Reading what came from elsewhere without trusting it: tar archives and CIFAR-10's pickled batches."""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from vigil.errors import DataError
from vigil.images.readers.rows import CompleteTarInfo

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 200
"""Unpacked bytes per packed byte. Images hardly compress, so more is a decompression bomb."""
_RATIO_FREE_BYTES = 64 << 20
_BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, UnicodeError)


def read_tar(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of each file in a tar (plain, .gz, .bz2, .xz), in one pass.

    Hidden files are left out.

    Raises:
        DataError: The archive is missing or damaged; a member has an absolute path or one with `..`, is a link or a
            device; or there are more members or bytes than the limits of this module allow.
    """
    try:
        packed = archive.stat().st_size
        members = total = 0
        with tarfile.open(archive, "r|*", tarinfo=CompleteTarInfo) as tar:
            for info in tar:
                members, total = members + 1, total + info.size
                where = f"{archive}::{info.name}"
                _check_limits(where, members, info.size, total, packed)
                name = PurePosixPath(info.name)
                if name.is_absolute() or ".." in name.parts or "\\" in info.name or "\0" in info.name:
                    raise DataError(f"{where}: the member's path leads out of the archive; refused")
                if info.isdir():
                    continue
                if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise DataError(f"{where}: a link, a device or another special member; refused, expected files")
                if any(part.startswith(".") for part in name.parts if part != "."):
                    continue
                opened = tar.extractfile(info)
                if opened is None:
                    raise DataError(f"{where}: not a file")
                yield name, opened.read()
    except _BROKEN as error:
        raise DataError(
            f"{archive}: not a readable tar archive, or cut off ({error or type(error).__name__})"
        ) from error


def _check_limits(where: str, members: int, size: int, total: int, packed: int) -> None:
    if members > MAX_MEMBERS:
        raise DataError(f"{where}: more than {MAX_MEMBERS} members; refused")
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{where}: {size} bytes, more than {MAX_MEMBER_BYTES} for one member; refused")
    if total > MAX_TOTAL_BYTES or (total > _RATIO_FREE_BYTES and total > MAX_RATIO * packed):
        raise DataError(
            f"{where}: the archive unpacks to {total} bytes or more, from {packed} (limits: {MAX_TOTAL_BYTES} bytes, "
            f"{MAX_RATIO}-fold); refused as a decompression bomb"
        )


def read_batch(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a CIFAR-10 batch; keys as text, no other object than NumPy arrays and plain values.

    Raises:
        DataError: The pickle is damaged, is no dictionary, or names anything else than NumPy's array reconstruction.
    """
    try:
        found = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    # The unpickler is a small machine driven by the file: damaged input may end it with any of these.
    except (
        *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
        *(ImportError, MemoryError, OverflowError, RecursionError, UnicodeError),
    ) as error:
        raise DataError(f"{where}: not a readable CIFAR-10 batch ({error or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a pickled dictionary, found {type(found).__name__}")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


class _ArrayType:
    """Stands for `numpy.ndarray` in a pickle, which only ever hands it to `_reconstruct`."""


def _reconstruct(kind: object, shape: object, _code: object) -> npt.NDArray[Any]:
    """NumPy's `_reconstruct`, for the empty array that a pickle then fills; anything else could claim memory."""
    if kind is not _ArrayType or shape != (0,):
        raise DataError("the pickle builds an array in a way that NumPy does not; refused")
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("b"))


class _BatchUnpickler(pickle.Unpickler):
    """Finds what a pickled NumPy array names, and nothing else that could be called."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _reconstruct
            case "numpy", "ndarray":
                return _ArrayType
            case "numpy", "dtype":
                return np.dtype
            case "_codecs", "encode":  # how Python 3 writes bytes for protocol 2
                return _encode
        return self._refuse(module, name)

    def persistent_load(self, pid: object) -> NoReturn:
        raise DataError(f"the pickle names a persistent object ({pid!r}); refused")

    @staticmethod
    def _refuse(module: str, name: str) -> NoReturn:
        raise DataError(f"the pickle names {module}.{name}, which could run code; refused, and nothing was run")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"the pickle asks for the encoding {encoding!r}; refused")
    return text.encode("latin1")
