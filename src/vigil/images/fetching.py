"""`vigil data fetch`: a public data set from its own address into the project, its licence shown and accepted.

What is known of each set, and how it is known:

- CIFAR-10: SHA-256 as in Keras (`keras.datasets.cifar10`), of the archive whose MD5 is in torchvision.
- MVTec AD: SHA-256 as in anomalib (`MVTecAD`); its owner moves the file at times, so several addresses are tried.
- Magnetic tile: GitHub packs an archive anew for each download, so no checksum of it can be published. What it holds
  is held against the git trees of the pinned commit, which is what git itself would check.
- SIXray: for academic use, and its owners' addresses change, so it is fetched by hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from vigil.errors import ConfigError, DataError
from vigil.files import digest_file, write_json
from vigil.images.archives import extract
from vigil.images.downloading import Patience, check_url, download
from vigil.images.importing import ImportSummary, import_data
from vigil.images.readers import cifar10

_log = logging.getLogger(__name__)
DOWNLOADS = Path("data/downloads")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from, on which terms, and how to know that it is the right one."""

    name: str
    licence: str
    urls: tuple[str, ...]
    archive: str
    """File name."""
    size: int | None = None
    """Bytes of the archive."""
    sha256: str | None = None
    """Of the archive; None where it has no fixed bytes, and `trees` decides."""
    trees: Mapping[str, str] = field(default_factory=dict)
    """Folder of the set -> identity of its git tree (SHA-1)."""
    classes: tuple[str, ...] = ()
    """What `--class` may name."""

    def describe(self) -> str:
        """The licence, and what would be fetched."""
        size = f"{self.size / 1e6:,.0f} MB" if self.size else "about 50 MB"
        check = f"SHA-256 {self.sha256}" if self.sha256 else f"the git trees of {len(self.trees)} folders"
        return f"{self.licence}\n\nFrom {self.urls[0]}\n({size}; verified by {check})"


_MVTEC_FILE = "420938113-1629960298/mvtec_anomaly_detection.tar.xz"
_TILE_COMMIT = "cc4eb530b57b9cb7225bf76023873043ffd50655"
SOURCES = {
    source.name: source
    for source in (
        Source(
            "cifar10",
            "CIFAR-10: 60,000 small photographs in ten classes, by A. Krizhevsky, V. Nair and G. Hinton.\n"
            "Its authors state no licence. They ask that work with it cites: A. Krizhevsky, Learning Multiple Layers\n"
            "of Features from Tiny Images, 2009. The photographs come from the web; their rights stay with their\n"
            "owners, so ask a lawyer before a commercial use.",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            "cifar-10-python.tar.gz",
            170_498_071,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            classes=cifar10.CLASSES,
        ),
        Source(
            "mvtec",
            "MVTec AD: 5,354 photographs of 15 kinds of objects and textures, by MVTec Software GmbH.\n"
            "Licence: CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/). No commercial use; what\n"
            "is made from it carries the same licence. Cite: P. Bergmann et al., The MVTec Anomaly Detection\n"
            "Dataset, International Journal of Computer Vision 129(4), 2021.",
            (
                f"https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/{_MVTEC_FILE}",
                f"https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/{_MVTEC_FILE}",
            ),
            "mvtec_anomaly_detection.tar.xz",
            5_264_982_680,
            "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            classes=(
                *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw"),
                *("tile", "toothbrush", "transistor", "wood", "zipper"),
            ),
        ),
        Source(
            "magnetic_tile",
            "Magnetic tile surface defects: 1,344 photographs with masks, by Y. Huang et al.\n"
            "Its authors state no licence; they welcome its use and ask that research cites: Y. Huang, C. Qiu,\n"
            "K. Yuan, Surface defect saliency of magnetic tile, The Visual Computer, 2020. Ask them before a\n"
            "commercial use.",
            (f"https://github.com/abin24/Magnetic-tile-defect-datasets./archive/{_TILE_COMMIT}.tar.gz",),
            "magnetic-tile-defect-datasets.tar.gz",
            trees={
                "MT_Blowhole": "5359f9ecf71a91cf0ddf8b52f3c225b293d16918",
                "MT_Break": "eaca29642e67b37016ca15ac7443b93faf042184",
                "MT_Crack": "eabc5ca655395767b4390bad03d68d6b1e032ea4",
                "MT_Fray": "a042ec93bc8c36bd3489e230c391a4b2097e85e8",
                "MT_Free": "3565a7ee3c15c985e95da7f3ba41f84fd2f403a0",
                "MT_Uneven": "5fa5a39c3f8ff035fa27e3918078105701bf8cb1",
            },
        ),
    )
}

SIXRAY_BY_HAND = """\
SIXray cannot be fetched by Vigil: it is for academic purposes only (no commercial use; copyright UCAS-PRISDL), and no
checksum of it is published. By hand:
  1. Read the terms at https://github.com/MeioJane/SIXray; do not go on unless yours is an academic use.
  2. Take the images and the annotations from one of the addresses there: the two Baidu shares of the README, or the
     files that data_list.txt lists (JPEGImage.tar.gz00 to 17, Annotation.zip, ImageSet.zip).
  3. Join and unpack: `cat JPEGImage.tar.gz?? | tar -xzf -`, then `unzip Annotation.zip` and `unzip ImageSet.zip`.
  4. Bring them into one folder: SIXRAY/JPEGImages/*.jpg and SIXRAY/Annotation/*.xml.
  5. Run `vigil data import sixray --from SIXRAY`.
Cite: C. Miao et al., SIXray: A Large-scale Security Inspection X-ray Benchmark, CVPR 2019."""


def fetch_data(
    name: str,
    root: Path,
    *,
    categories: Sequence[str] = (),
    accept_licence: bool = False,
    url: str | None = None,
    sha256: str | None = None,
    downloads: Path = DOWNLOADS,
    patience: Patience | None = None,
) -> ImportSummary:
    """Downloads a data set, verifies it, and imports it as `vigil data import` would.

    The verified archive stays in `downloads/NAME`, with a receipt (`<archive>.json`: address, SHA-256, what it was
    verified against, licence), so that a second category costs no second download.

    Args:
        name: `cifar10`, `mvtec` or `magnetic_tile`; `sixray` says how to get it by hand.
        root: Where the raw data set goes.
        categories: `mvtec`: which ones; none: all that there are. `cifar10`: a class that must be there.
        accept_licence: Whether whoever runs this has read and accepts the licence.
        url: Another address of the set.
        sha256: What the archive at `url` must have, in place of the published checksum (for a repacked copy).
        downloads: Folder of the archives.
        patience: How long to go on trying.

    Raises:
        ConfigError: The licence is not accepted, or an option is wrong.
        DataError: The set is had by hand only; or as `download`, `extract` and `import_data`; or another run is
            fetching the same set; or what came is not the set.
    """
    if name == "sixray":
        raise DataError(SIXRAY_BY_HAND)
    if name not in SOURCES:
        raise ConfigError(f"'{name}' cannot be fetched; expected {', '.join(SOURCES)} or sixray")
    source = SOURCES[name]
    if unknown := [name for name in categories if name not in source.classes]:
        raise ConfigError(
            f"--class {unknown[0]}: expected one of {', '.join(source.classes) or '(none: leave it out)'}"
        )
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"--sha256 {sha256}: expected 64 hexadecimal digits")
    if url is not None:
        check_url(url)
    if not accept_licence:
        raise ConfigError(
            f"{source.describe()}\n\nNothing was fetched. If you accept these terms, run the command again with "
            f"--accept-licence"
        )
    return fetch_source(
        source, root, categories=categories, url=url, sha256=sha256, downloads=downloads, patience=patience
    )


def fetch_source(
    source: Source,
    root: Path,
    *,
    categories: Sequence[str] = (),
    url: str | None = None,
    sha256: str | None = None,
    downloads: Path = DOWNLOADS,
    patience: Patience | None = None,
) -> ImportSummary:
    """As `fetch_data`, with the licence accepted and the options checked."""
    folder = Path(downloads) / source.name
    with _alone(folder):
        archive = folder / _file_name(source, url if sha256 else None)
        expected = sha256.lower() if sha256 else source.sha256
        size = source.size if expected == source.sha256 else None
        came_from = None
        if not archive.is_file():
            came_from = download((url,) if url else source.urls, archive, sha256=expected, size=size, patience=patience)
        elif expected is not None and (found := digest_file(archive)) != expected:
            raise DataError(
                f"{archive}: expected SHA-256 {expected}, found {found}: the file was changed since it was downloaded. "
                f"Delete it and run again"
            )
        else:
            _log.info("%s: already downloaded", archive)
        if came_from is not None:
            against = "--sha256" if sha256 else "published SHA-256" if source.sha256 else "git trees"
            receipt = {"url": came_from, "bytes": archive.stat().st_size, "sha256": digest_file(archive)}
            terms = {"licence": source.licence, "licence_accepted": True}
            write_json(_receipt(archive), {**receipt, "verified_against": against, **terms})
        return _import(source, archive, root, categories, folder / ".unpacked")


def _receipt(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second run from writing into the same folder; the kernel releases it when this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); choose another with --downloads") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"{folder}: another `vigil data fetch` is at work there; wait until it has ended"
            ) from error
        yield


def _file_name(source: Source, url: str | None) -> str:
    """The archive's name; that of a copy with a checksum of its own is the address's."""
    name = "" if url is None else PurePosixPath(unquote(urlsplit(url).path)).name
    return name if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,100}", name) else source.archive


def _import(source: Source, archive: Path, root: Path, categories: Sequence[str], unpacked: Path) -> ImportSummary:
    """Imports from the archive itself, or from what it holds."""
    if source.name == "cifar10":
        return import_data(source.name, archive, root, list(categories) or None)
    wanted = source.trees or dict.fromkeys(categories or source.classes, "")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        unpacked.mkdir()
        extract(archive, unpacked, lambda path: _below(path, wanted))
        found = sorted(path.name for path in unpacked.iterdir())
        _check_trees(source, unpacked, archive)
        missing = [name for name in categories or wanted if name not in found]
        if missing and (categories or not found):
            raise DataError(f"{archive}: holds no folder {' or '.join(missing)}; this is not {source.name}")
        chosen = found if source.name == "mvtec" else None
        return import_data(source.name, unpacked, root, chosen, _same_device(unpacked, root))
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked and imported ({error}); make room and run again") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _below(path: PurePosixPath, wanted: Mapping[str, str]) -> PurePosixPath | None:
    """`path` from the wanted folder on, which lies at the top of the archive or one folder deeper."""
    for place, part in enumerate(path.parts[:2]):
        if part in wanted and len(path.parts) > place + 1:
            return PurePosixPath(*path.parts[place:])
    return None


def _check_trees(source: Source, unpacked: Path, archive: Path) -> None:
    for name, expected in source.trees.items():
        found = git_tree(unpacked / name) if (unpacked / name).is_dir() else "nothing"
        if found != expected:
            archive.unlink()
            _receipt(archive).unlink(missing_ok=True)
            raise DataError(
                f"{archive}::{name}: expected the git tree {expected}, found {found}: the archive is not what the "
                f"commit holds, and was removed. Try another address with --url"
            )


def git_tree(folder: Path) -> str:
    """The identity that git gives to a folder of plain files and folders (SHA-1, hexadecimal)."""
    entries = []
    for path in folder.iterdir():
        name = path.name.encode()
        if path.is_dir():
            entries.append((name + b"/", b"40000 " + name, bytes.fromhex(git_tree(path))))
        else:
            entries.append((name, b"100644 " + name, _git_object(b"blob", path.read_bytes())))
    return _git_object(b"tree", b"".join(head + b"\0" + digest for _, head, digest in sorted(entries))).hex()


def _git_object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest()


def _same_device(folder: Path, root: Path) -> bool:
    """Whether hard links can be made from `folder` to `root`, so that nothing is copied."""
    nearest = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    return folder.stat().st_dev == nearest.stat().st_dev
