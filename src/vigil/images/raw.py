"""Raw data in place: embedded sets are generated, imported ones must have been imported.

Imports nothing else of `vigil.images` up front, so that only a change of a generator makes DVC generate again.
"""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import numpy as np

from vigil.config import BaggageData, DataSection, DigitsData, MvtecData
from vigil.errors import DataError
from vigil.files import digest_file, digest_json, files_below, read_json, write_json, written_aside

RAW_RECEIPT = "vigil-raw.json"
IMPORT_RECEIPT = "vigil-import.json"
_DIGITS_MAXIMUM = 16.0  # scikit-learn's digits count dark cells of a 4x4 block: 0..16
_log = logging.getLogger(__name__)


def prepare_raw(data: DataSection) -> None:
    """Leaves a complete raw data set at `data.root`.

    Embedded sets (baggage, digits) are generated aside and then renamed; if the receipt there says that the same
    settings and the same generator made what is there, nothing happens. Imported sets are left as they are.

    Raises:
        DataError: An imported set is not there or was not brought in by `vigil data import`, or the root of an
            embedded set holds files that Vigil did not generate.
    """
    root = Path(data.root)
    if not isinstance(data, BaggageData | DigitsData):
        _check_imported(data, root)
        return
    receipt = {"name": data.name, "settings": digest_json(data.model_dump(mode="json", exclude=_not_of_the_raw(data)))}
    receipt["generator"] = _generator_digest(data)
    if (root / RAW_RECEIPT).is_file() and read_json(root / RAW_RECEIPT) == receipt:
        _log.info("%s: already generated with these settings", root)
        return
    if root.is_dir() and any(root.iterdir()) and not (root / RAW_RECEIPT).is_file():
        raise DataError(f"{root}: holds files that Vigil did not generate; move them away, or change data.root")
    with written_aside(root) as new:
        new.mkdir()
        if isinstance(data, BaggageData):
            from vigil.images.baggage import write_baggage

            write_baggage(data, new)
        else:
            _write_digits(new / "digits.tar")
        write_json(new / RAW_RECEIPT, receipt)


def receipt_paths(data: DataSection) -> list[Path]:
    """Where the import receipts of an imported set lie: one per category for MVTec AD, else one in the root."""
    root = Path(data.root)
    if data.name != "mvtec":
        return [root / IMPORT_RECEIPT]
    if data.category == "all":
        return sorted(root.glob(f"*/{IMPORT_RECEIPT}")) or [root / "CATEGORY" / IMPORT_RECEIPT]
    return [root / name / IMPORT_RECEIPT for name in _categories(data)]


def _categories(data: MvtecData) -> list[str]:
    return [data.category] if isinstance(data.category, str) else list(data.category)


def _check_imported(data: DataSection, root: Path) -> None:
    wanted = _categories(data) if data.name == "mvtec" and data.category != "all" else []
    option = "".join(f" --class {name}" for name in wanted)
    advice = f"run `vigil data import {data.name} --from PATH{option} --root {root}`"
    for path in receipt_paths(data):
        if not path.is_file():
            raise DataError(f"{path}: no import receipt, so the data set '{data.name}' is not there; {advice}")
        receipt = read_json(path)
        found = receipt.get("name") if isinstance(receipt, dict) else None
        if found != data.name:
            raise DataError(f"{path}: expected an import of '{data.name}', found '{found}'; {advice}")


def _not_of_the_raw(data: BaggageData | DigitsData) -> set[str]:
    """Settings that do not change the generated files."""
    return {"root"} if isinstance(data, BaggageData) else {"root", "held_class", "protocol"}


def _generator_digest(data: BaggageData | DigitsData) -> str:
    """A digest of the code that generates the set: a changed simulator must not pass for what it made before."""
    own = Path(__file__)
    sources = [own] if isinstance(data, DigitsData) else files_below(own.parent / "baggage")
    return digest_json([[path.name, digest_file(path)] for path in sources if path.suffix == ".py"])


def _write_digits(archive: Path) -> None:
    """scikit-learn's 1,797 digits as 8x8 grey PNGs `<class>/<index>.png`, sorted, in an uncompressed tar."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255.0 / _DIGITS_MAXIMUM)).astype(np.uint8)
    order = np.lexsort((np.arange(len(images)), digits.target))
    with tarfile.open(archive, "w:") as tar:
        for index in order:
            encoded = io.BytesIO()
            Image.fromarray(images[index]).save(encoded, format="PNG", optimize=False)
            add_to_tar(tar, f"{digits.target[index]}/{index:04d}.png", encoded.getvalue())


def add_to_tar(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file whose header depends on its name and size alone (no time, owner or mode of this machine)."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))
