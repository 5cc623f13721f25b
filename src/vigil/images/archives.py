"""Reading what came from elsewhere without trusting it: tar and zip archives, and CIFAR-10's pickled batches."""

from __future__ import annotations

import io
import lzma
import pickle
import pickletools
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from vigil.errors import DataError
from vigil.images.readers.rows import CompleteTarInfo
from vigil.progress import Progress

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 512 << 20
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 200
"""Unpacked bytes per packed byte. Images hardly compress, so more is a decompression bomb."""
_RATIO_FREE_BYTES = 64 << 20
_MIB = 1 << 20
_BROKEN = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, UnicodeError, OverflowError)
_BROKEN_ZIP = (*_BROKEN, zipfile.BadZipFile, NotImplementedError, RuntimeError, struct.error, KeyError, IndexError)


def read_tar(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of each file in a tar (plain, .gz, .bz2, .xz), in one pass; shows progress.

    Hidden files are left out.

    Raises:
        DataError: The archive is missing or damaged; a member has an absolute path or one with `..`, is a link or a
            device; or there are more members or bytes than the limits of this module allow.
    """
    try:
        packed = archive.stat().st_size
        members = total = 0
        progress = Progress(f"reading {archive.name}", packed // _MIB, "MiB")
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=CompleteTarInfo) as tar:
            done = 0
            for info in tar:
                members, total = members + 1, total + info.size
                where = f"{archive}::{info.name}"
                _check_limits(where, members, info.size, total, packed)
                name = _checked_name(where, info.name)
                if info.isdir():
                    continue
                if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise DataError(f"{where}: a link, a device or another special member; refused, expected files")
                if _is_hidden(name):
                    continue
                opened = tar.extractfile(info)
                if opened is None:
                    raise DataError(f"{where}: not a file")
                yield name, opened.read()
                progress.advance(file.tell() // _MIB - done)
                done = file.tell() // _MIB
        progress.close(f"{members} members")
    except _BROKEN as error:
        raise DataError(
            f"{archive}: not a readable tar archive, or cut off ({error or type(error).__name__})"
        ) from error


def read_zip(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of each file in a zip archive, in the order of its directory; shows progress.

    Hidden files are left out.

    Raises:
        DataError: As `read_tar`; or a member is encrypted, or does not have the checksum that the archive names.
    """
    try:
        packed = archive.stat().st_size
        total = 0
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
            progress = Progress(f"reading {archive.name}", len(infos), "files")
            for members, info in enumerate(infos, start=1):
                total += info.file_size
                where = f"{archive}::{info.filename}"
                _check_limits(where, members, info.file_size, total, packed)
                # What the archive said before zipfile made a path of it: that would cut at a NUL and turn backslashes.
                name = _checked_name(where, info.orig_filename)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise DataError(f"{where}: a link, a device or another special member; refused, expected files")
                if info.flag_bits & 0x1:
                    raise DataError(f"{where}: encrypted; unpack it yourself and import the folder")
                progress.advance()
                if not info.is_dir() and not _is_hidden(name):
                    yield name, opened.read(info)
            progress.close()
    except _BROKEN_ZIP as error:
        raise DataError(
            f"{archive}: not a readable zip archive, or cut off ({error or type(error).__name__})"
        ) from error


def extract(archive: Path, folder: Path, place: Callable[[PurePosixPath], PurePosixPath | None]) -> int:
    """Writes the files of a tar or zip archive below `folder`, which is there and empty; the number of files.

    Args:
        archive: Which of the two it is, is seen by its content.
        folder: On an error it holds what was written before; the caller removes it.
        place: The path below `folder` of a member, or None to leave it out.

    Raises:
        DataError: As `read_tar`; or two members have the same path, or a file cannot be written.
    """
    try:
        with archive.open("rb") as file:
            is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise DataError(f"{archive}: cannot be read ({error.strerror})") from error
    count = 0
    for name, content in (read_zip if is_zip else read_tar)(archive):
        path = place(name)
        if path is None:
            continue
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.write(content)
        except (OSError, ValueError) as error:
            twice = isinstance(error, FileExistsError | NotADirectoryError)
            reason = "two members have this path" if twice else getattr(error, "strerror", None) or error
            raise DataError(f"{archive}::{name}: cannot be unpacked ({reason})") from error
        count += 1
    return count


def _checked_name(where: str, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DataError(f"{where}: the member's path leads out of the archive; refused")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where!a}: the member's name is not valid UTF-8; pack the archive anew") from error
    return path


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts if part != ".")


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of strange escapes in the texts of protocol 0
            _check_memo(content)
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


def _check_memo(content: bytes) -> None:
    """Refuses a pickle that stores an object under a huge number: the unpickler would make a list of that length."""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and not 0 <= int(argument or 0) < len(content):
            raise DataError(f"the pickle stores an object under the number {argument}; refused")


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
