"""A folder of safetensors files and one sealed JSON file: how pairs and checkpoints are stored.

    <name>.safetensors ...     tensors by name
    <document>.json            kind, version, content, SHA-256 of each safetensors file, and a seal over all of that

The folder is written aside and renamed. Equal content gives equal bytes. Reading checks every byte before any tensor
is used, and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vigil.errors import CheckpointError
from vigil.files import digest_bytes, digest_json, written_aside

Tensors = Mapping[str, Tensor]


def write_weights_folder(
    folder: Path, document: str, version: int, content: Mapping[str, Any], parts: Mapping[str, Tensors]
) -> None:
    """Writes `parts` (name -> tensors) and `content` (JSON values) to `folder`, replacing what was there.

    Raises:
        CheckpointError: A floating-point tensor holds a value that is not finite.
        ValueError: `content` holds a number that is not finite.
    """
    folder = Path(folder)
    with written_aside(folder) as new:
        new.mkdir()
        digests = {}
        for name, tensors in parts.items():
            _check_finite(folder / f"{name}.safetensors", tensors)
            encoded = safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
            digests[name] = digest_bytes(encoded)
            (new / f"{name}.safetensors").write_bytes(encoded)
        sealed = {"kind": document, "version": version, "content": dict(content), "sha256": digests}
        (new / f"{document}.json").write_text(_rendered(sealed))


def read_weights_folder(folder: Path, document: str, version: int) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """The content and the parts that `write_weights_folder` wrote, verified byte by byte.

    Raises:
        CheckpointError: A file is missing or damaged, or the folder is of another kind or version.
    """
    folder = Path(folder)
    sealed = _read_sealed(folder / f"{document}.json", document, version)
    parts: dict[str, Tensors] = {}
    for name, expected in sealed["sha256"].items():
        path = folder / f"{name}.safetensors"
        encoded = _read_bytes(path)
        found = digest_bytes(encoded)
        if found != expected:
            raise CheckpointError(
                f"{path}: the SHA-256 is {found}, {document}.json says {expected}: the file was changed or cut short. "
                f"Delete {folder} and make it anew."
            )
        try:
            parts[name] = safetensors.torch.load(encoded)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: not a safetensors file ({error}). Delete {folder} and make it anew."
            ) from error
        _check_finite(path, parts[name])
    return sealed["content"], parts


def load_weights(module: nn.Module, tensors: Tensors, path: Path) -> None:
    """Copies `tensors` into `module`.

    Raises:
        CheckpointError: Names, shapes or types differ from the module's; the first few differences are listed.
    """
    own = module.state_dict()
    wrong = [f"'{name}' is missing" for name in own if name not in tensors]
    wrong += [f"'{name}' is unknown" for name in tensors if name not in own]
    wrong += [
        f"'{name}' is {_form(tensors[name])}, expected {_form(own[name])}"
        for name in own
        if name in tensors and _form(tensors[name]) != _form(own[name])
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: the weights do not fit the network that the folder describes: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}. Make the folder anew."
        )
    module.load_state_dict(dict(tensors))


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _check_finite(path: Path, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor '{name}' holds values that are not finite; train anew.")


def _rendered(sealed: dict[str, Any]) -> str:
    value = {**sealed, "seal": digest_json(sealed)}
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _read_sealed(path: Path, document: str, version: int) -> dict[str, Any]:
    text = _read_bytes(path)
    try:
        value = json.loads(text)
        kind, found = value["kind"], value["version"]
        sealed = {key: value[key] for key in ("kind", "version", "content", "sha256")}
        if not (isinstance(sealed["content"], dict) and isinstance(sealed["sha256"], dict)):
            raise TypeError("content and sha256 must be objects")
        rendered = _rendered(sealed).encode()  # a number that is not finite or half a character has no rendering
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a {document} file ({error!r}). Delete {path.parent} and make it anew."
        ) from error
    if (kind, found) != (document, version):
        raise CheckpointError(
            f"{path}: expected '{document}' version {version}, found '{kind}' version {found}. "
            f"Use the release of Vigil that wrote it, or make it anew."
        )
    # Comparing the text, and not only the seal, also catches a changed space or a repeated key.
    if text != rendered:
        raise CheckpointError(
            f"{path}: the file was changed after it was written. Delete {path.parent} and make it anew."
        )
    return sealed


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path}: file not found. Run `dvc repro` to rebuild the folder.") from error
