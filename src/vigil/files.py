"""Files written aside and then renamed, canonical JSON, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vigil.errors import DataError

_CHUNK_BYTES = 1 << 20


def aside(path: Path) -> Path:
    """The hidden sibling under which this process writes `path` before it is renamed; no other process has it, also on
    another host that shares the folder."""
    return path.with_name(f".{path.name}.aside-{os.getpid()}-{os.uname().nodename}")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or a folder at; on success it replaces `path`, on an error nothing is left.

    A file replaces its predecessor in one rename. A folder's predecessor is moved away first and deleted last,
    so that at every moment either the old or the new folder is whole on disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = aside(path)
    _remove(new)
    try:
        yield new
        if new.is_dir() and path.exists():
            old = new.with_name(new.name + "-old")
            _remove(old)
            path.rename(old)
            new.rename(path)
            _remove(old)
        else:
            new.replace(path)
    finally:
        _remove(new)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, aside then renamed."""
    with written_aside(path) as new:
        new.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes `content` to `path` as UTF-8, aside then renamed."""
    write_bytes(path, content.encode())


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no NaN or infinity, so that equal values give equal text.

    Raises:
        ValueError: A number is not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: file not found. Run `dvc repro` to rebuild it.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error}). Delete it and run `dvc repro`.") from error


def digest_bytes(content: bytes) -> str:
    """The SHA-256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """The SHA-256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value).encode())


def digest_file(path: Path) -> str:
    """The SHA-256 of a file, read in chunks."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def digest_folder(folder: Path) -> str:
    """The SHA-256 over the relative names and contents of all files below `folder`, in sorted order."""
    return digest_json([[p.relative_to(folder).as_posix(), digest_file(p)] for p in files_below(folder)])


def files_below(folder: Path) -> list[Path]:
    """All files below `folder`, sorted by relative POSIX name; hidden files written aside are left out."""
    found = (p for p in Path(folder).rglob("*") if p.is_file() and ".aside-" not in p.name)
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())
