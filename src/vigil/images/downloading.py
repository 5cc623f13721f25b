"""One file over HTTP: resumed where it broke off, tried again with patience, and whole or not there."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from vigil.errors import ConfigError, DataError
from vigil.files import digest_file, read_json, write_json
from vigil.progress import Progress

if TYPE_CHECKING:
    import requests

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 18
_MIB = 1 << 20
_SPARE_BYTES = 64 << 20
MAX_DOWNLOAD_BYTES = 64 << 30
"""A server that sends more than this without having said how much there is, is not listened to any longer."""
_TRY_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504))
_NOT_HERE = frozenset((401, 403, 404, 410, 451))
_MAX_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download goes on trying."""

    retries: int = 6
    """Attempts in a row that bring less than a mebibyte before it gives up."""
    first_wait_s: float = 1.0
    """Wait before the second attempt; doubled each time, at most a minute unless the server asks for longer."""
    connect_s: float = 15.0
    silence_s: float = 60.0
    """Seconds without a byte after which the connection counts as broken."""


class _NotHereError(Exception):
    """This address does not have the file; another one may."""


class _TryAgainError(Exception):
    """The transfer broke off, or the server is busy."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def check_url(url: str) -> None:
    """Raises ConfigError if `url` is no http or https address."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{url!r}: expected an address that starts with https:// or http:// and names a host")


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None,
    size: int | None,
    patience: Patience | None = None,
) -> str:
    """Downloads the first of `urls` that has the file to `target`, and returns that address.

    What has come so far lies in `.<name>.part` beside it until the size and the checksum are right, and is resumed by
    the next attempt or the next run (HTTP Range; If-Range keeps two versions of a file from being mixed). Proxies are
    taken from the environment. `target` is there whole, or not at all.

    Args:
        urls: Addresses of the same file, in the order in which they are tried.
        target: Where the file goes; its folder must exist.
        sha256: What the file must have, in hexadecimal; None: not checked here.
        size: Its bytes; None: what the server says.
        patience: How long to go on trying.

    Raises:
        DataError: No address has the file, the connection keeps breaking off, the disk is full, the file has another
            size or checksum. Only in the case of a wrong checksum is the part removed.
    """
    part = _Part(target)
    patience = patience or Patience()
    missing: list[str] = []
    for url in urls:
        resumed = part.bytes_there(url, sha256) > 0
        try:
            _with_retries(url, part, size, patience)
        except _NotHereError as error:
            missing.append(f"{url}: {error}")
            continue
        if sha256 is not None and resumed and _digest(part.path) != sha256:
            _log.warning("%s: what an earlier run had left does not fit; downloading it anew", part.path.name)
            part.clear()
            _with_retries(url, part, size, patience)
        if sha256 is not None and (found := _digest(part.path)) != sha256:
            part.clear()
            raise DataError(
                f"{url}: the checksum is wrong: expected SHA-256 {sha256}, found {found}. The file was removed. Either "
                f"the address serves another file, or it was changed on the way: try another one with --url"
            )
        part.path.replace(target)
        part.clear()
        return url
    shown = "\n  ".join(missing)
    raise DataError(
        f"no address has the file:\n  {shown}\nThe set may have moved: look for its present address and pass it with "
        f"--url (the checksum is still verified), or import a copy that you have with `vigil data import`"
    )


class _Part:
    """A file on its way, and what is known of it."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")

    def notes(self) -> dict[str, Any]:
        try:
            found = read_json(self._notes)
        except (DataError, OSError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, url: str, validator: str | None) -> None:
        write_json(self._notes, {"url": url, "validator": validator})

    def bytes_there(self, url: str, sha256: str | None) -> int:
        """Bytes that can be built on. Those of another address only where a checksum will tell."""
        if not self.path.is_file():
            return 0
        if sha256 is None and self.notes().get("url") != url:
            self.clear()
            return 0
        return self.path.stat().st_size

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    _log.info("checking the checksum of %s", path.name)
    return digest_file(path)


def _with_retries(url: str, part: _Part, size: int | None, patience: Patience) -> None:
    """Leaves the whole file in `part`."""
    import requests

    failures = 0
    with requests.Session() as session:
        session.headers["User-Agent"] = "vigil"
        # Any other encoding would change the bytes that Range counts and that the checksum is of.
        session.headers["Accept-Encoding"] = "identity"
        while True:
            before = part.path.stat().st_size if part.path.is_file() else 0
            try:
                _attempt(session, url, part, size, patience)
                return
            except _TryAgainError as error:
                after = part.path.stat().st_size if part.path.is_file() else 0
                failures = 1 if after - before >= _MIB else failures + 1
                if failures > patience.retries:
                    raise DataError(
                        f"{url}: the transfer keeps breaking off ({error}), {after} bytes are there. They are kept in "
                        f"{part.path}: run the same command again to go on from there"
                    ) from error
                wait_s = max(error.wait_s, min(patience.first_wait_s * 2 ** (failures - 1), _MAX_WAIT_S))
                _log.warning("%s: %s; %d bytes are there, going on in %.0f s", url, error, after, wait_s)
                time.sleep(wait_s)


def _attempt(session: requests.Session, url: str, part: _Part, size: int | None, patience: Patience) -> None:
    """One request; appends to the part."""
    import requests
    import urllib3

    start = part.path.stat().st_size if part.path.is_file() else 0
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        notes = part.notes()
        if notes.get("url") == url and isinstance(notes.get("validator"), str):
            headers["If-Range"] = notes["validator"]
    try:
        response = session.get(
            url, headers=headers, stream=True, timeout=(patience.connect_s, patience.silence_s), allow_redirects=True
        )
        with response:
            if response.status_code == 416 and start:  # nothing lies behind what is here
                if start == _told_size(response):
                    return
                part.clear()
                raise _TryAgainError(f"the server has no byte {start}, so it serves another file now; starting anew")
            total = _answered(response, start, size)
            if response.status_code == 200:
                start = 0
            part.note(url, _validator(response))
            _check_room(part.path.parent, None if total is None else total - start)
            with part.path.open("ab" if start else "wb") as file:
                _receive(response, file, start, total)
    except requests.exceptions.SSLError as error:
        raise DataError(f"{url}: the server's certificate was refused ({_why(error)}); check the address") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects) as error:
        raise DataError(f"{url}: cannot be followed ({_why(error)}); check the address") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgainError(_why(error)) from error


def _told_size(response: requests.Response) -> int | None:
    """The whole file's size by Content-Range."""
    found = re.fullmatch(r"bytes [^/]*/(\d{1,18})", response.headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def _answered(response: requests.Response, start: int, size: int | None) -> int | None:
    """The size of the whole file by the server's answer and by `size`; None if neither tells.

    Raises:
        DataError: The answer is of no use, or about a file of another size.
        _NotHereError, _TryAgainError: By the status.
    """
    status = response.status_code
    said = f"HTTP {status} {response.reason or ''}".strip()
    if status in _NOT_HERE:
        raise _NotHereError(said)
    if status in _TRY_AGAIN:
        raise _TryAgainError(said, _retry_after(response.headers.get("Retry-After", "")))
    if status == 206:
        if not response.headers.get("Content-Range", "").strip().startswith(f"bytes {start}-"):
            raise DataError(f"{response.url}: asked for bytes from {start} on, the server sent others; try --url")
        total = _told_size(response)
    elif status == 200:
        length = response.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    else:
        raise DataError(f"{response.url}: unexpected answer {said}")
    if size is not None and total is not None and total != size:
        raise DataError(
            f"{response.url}: expected a file of {size} bytes, the server offers {total} "
            f"({response.headers.get('Content-Type', 'no content type')}), so it is not the file that was asked for"
        )
    return size if total is None else total


def _receive(response: requests.Response, file: BinaryIO, start: int, total: int | None) -> None:
    limit = MAX_DOWNLOAD_BYTES if total is None else total
    mebibytes = None if total is None else total // _MIB
    progress = Progress("download", mebibytes, "MiB", done=start // _MIB)
    there = start
    for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
        if there + len(chunk) > limit:
            raise DataError(f"{response.url}: the server sends more than {limit} bytes; stopped")
        try:
            file.write(chunk)
        except OSError as error:
            raise _cannot_write(file.name, error) from error
        progress.advance((there + len(chunk)) // _MIB - there // _MIB)
        there += len(chunk)
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(file.name, error) from error
    if total is not None and there < total:
        raise _TryAgainError(f"cut off after {there} of {total} bytes")
    progress.close(f"{there} bytes")


def _cannot_write(name: str, error: OSError) -> DataError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return DataError(
        f"{name}: {'the disk is full' if full else 'cannot be written'} ({error.strerror}). What has come is kept: "
        f"make room and run the same command again to go on, or choose another folder with --downloads"
    )


def _check_room(folder: Path, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed + _SPARE_BYTES > free:
        raise DataError(
            f"{folder}: {needed} bytes are to come, {free} are free; make room or choose another folder with "
            f"--downloads"
        )


def _validator(response: requests.Response) -> str | None:
    """What If-Range may carry: a strong entity tag, else the date of the last change."""
    tag = str(response.headers.get("ETag", ""))
    if tag and not tag.startswith("W/"):
        return tag
    changed = response.headers.get("Last-Modified")
    return None if changed is None else str(changed)


def _retry_after(value: str) -> float:
    """Seconds that the server asks for, at most ten minutes."""
    seconds = 0.0
    if value.strip().isdigit():
        seconds = float(value.strip()[:6])
    elif value:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), 600.0)


def _why(error: BaseException) -> str:
    """The innermost reason, in one line."""
    reason = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    reason = getattr(reason, "reason", None) or reason
    text = str(reason).split("object at 0x")[-1]
    return " ".join(text.split(">: ")[-1].split())[:200] or type(error).__name__
