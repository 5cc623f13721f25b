"""Patch components: what the pair says of each patch, alone and unscaled.

    data/scores/maps/<split>/bucket-0007.npy      float16 [N, P, P]  anomaly maps, rows as in the patch shard
                             bucket-0007.parquet  components, checksum of the maps, digest of what they were made from

Legend: N patches, B batch, C channels, P patch side in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from vigil.config import ScoreSection
from vigil.errors import ConfigError, ScoreNotFinite
from vigil.files import canonical_json, digest_file, digest_json, written_aside
from vigil.images.dataset import to_tensor
from vigil.images.patches import Positions
from vigil.images.shards import PatchShards
from vigil.networks.baselines.anogan import AnoGan
from vigil.networks.pair import Pair, PairOutputs
from vigil.progress import Progress
from vigil.records import ANOMALOUS, COMPONENTS, PATCH_SCORES
from vigil.scoring.anomaly_map import anomaly_map, map_peak
from vigil.scoring.latent_search import search_latent
from vigil.scoring.stitched_peak import stitched_peaks

FORMAT_VERSION = 4
"""Of what a component's value means, too: scores of another version on disk are made anew. 2: peaks of log-odds, maps
spread by a Gaussian. 3: peaks of the stitched log-odds beside them. 4: of squares of them."""


class PatchComponents(NamedTuple):
    """What the pair says of N patches; None where the system has no such thing."""

    contextual: NDArray[np.float64] | None
    """[N]; A_G of Eq. (6), arXiv 2211.13808: mean |x - x^| over channels and pixels in [-1, 1] units."""
    latent: NDArray[np.float64] | None
    """[N]; A_D of Eq. (6): mean |f(x) - f(x^)| over features and positions."""
    map_peak: NDArray[np.float64]
    """[N]; how anomalous the anomaly map is at its highest (`anomaly_map.map_peak`)."""
    maps: NDArray[np.float32]
    """[N, P, P]; the smoothed anomaly maps."""
    self_supervision: NDArray[np.float64] | None = None
    """[N]; nats, the mean over the four turns of -log p of the turn."""
    memory: NDArray[np.float64] | None = None
    """[N]; Mahalanobis distance from the memory over the root of its channels."""
    published: NDArray[np.float64] | None = None
    """[N]; a baseline's score as its own description defines it."""
    log_odds: NDArray[np.float32] | None = None
    """[N, P, P]; what the pair points at, before it is spread."""
    stitched_peak: NDArray[np.float64] | None = None
    """[N]; `stitched_peaks`, of whole images alone (`with_stitched_peaks`)."""

    def alone(self) -> PatchComponents:
        """With `stitched_peak`, where the pair points, of patches that have no neighbours to be stitched to."""
        return self if self.log_odds is None else self._replace(stitched_peak=_peaks_alone(self.log_odds))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The components that there are, by the names of their columns in records.PATCH_SCORES."""
        return {name: values for name, values in self.arrays().items() if name in COMPONENTS}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The components that there are, and the maps, by name."""
        named = self._asdict().items()
        return {name: values for name, values in named if values is not None and name != "log_odds"}

    def rows(self, chosen: NDArray[Any] | slice) -> PatchComponents:
        """Those of some patches."""
        return PatchComponents(*(None if values is None else values[chosen] for values in self))  # type: ignore[arg-type]


def score_patches(
    pair: Pair, patches: NDArray[np.uint8], *, device: torch.device | str, batch_size: int
) -> PatchComponents:
    """The components of uint8 patches [N, P, P, C], each a function of the pair and of that patch alone.

    Sets evaluation mode itself and puts the former mode back; computes in float32 without reduced-precision matrix
    units. Every batch has exactly `batch_size` patches, the last one filled up, so that on one machine the bits of a
    patch's components depend neither on order nor on neighbours nor on N. Another batch size, another number of
    threads or another device may choose other kernels and move a component by about 1e-6.

    differs from the paper: A_G and A_D are means where Eq. (6) writes |.| without saying how it becomes a number; a
    mean does not change with patch size or feature count.

    Args:
        pair: Is moved to `device`.
        patches: As at rest.
        device: Where to compute.
        batch_size: Patches per batch.

    Raises:
        ScoreNotFinite: A component or a map of a patch is NaN or infinite.
    """
    count, size = len(patches), pair.spec.patch_size_px
    scored: PatchComponents | None = None
    with exact_evaluation(pair.to(device)):
        for start in range(0, max(count, 1), batch_size):  # one batch at least says which components there are
            batch = patches[start : start + batch_size]
            here = slice(start, start + len(batch))
            filling = batch[:1] if len(batch) else np.zeros((1, size, size, pair.spec.channels), np.uint8)
            filled = np.concatenate([batch, np.repeat(filling, batch_size - len(batch), axis=0)])
            found = components(pair, to_tensor(filled, device).contiguous(memory_format=torch.channels_last))
            scored = _empty(found, count) if scored is None else scored
            for values, of_batch in zip(scored, found, strict=False):  # peaks of whole images come later
                if values is not None and of_batch is not None:
                    values[here] = of_batch[: len(batch)].cpu().numpy()
    assert scored is not None
    check_finite(scored)
    return scored


def with_stitched_peaks(found: PatchComponents, positions: Sequence[Positions]) -> PatchComponents:
    """The same with `stitched_peak`, where the pair points.

    Args:
        found: Of all grid patches of some images, image after image.
        positions: Of each image's patches, [patches of the image, 2].
    """
    if found.log_odds is None:
        return found
    of_images = np.split(found.log_odds, np.cumsum([len(p) for p in positions])[:-1])
    peaks = [stitched_peaks(log_odds, own) for log_odds, own in zip(of_images, positions, strict=True)]
    return found._replace(stitched_peak=np.concatenate(peaks))


def check_finite(scored: PatchComponents) -> None:
    """Passes where every component and every map is finite.

    Raises:
        ScoreNotFinite: A component or a map of a patch is NaN or infinite.
    """
    for name, values in scored.arrays().items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
        if len(bad):
            raise ScoreNotFinite(
                f"patch {bad[0]}: its {name} is not finite ({len(bad)} of {len(values)} patches). The pair's weights "
                f"are damaged or too large; train again, with a lower train.learning_rate if this comes back."
            )


def components(pair: Pair, x: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The components of x [B, C, P, P] in [-1, 1], in the order of `PatchComponents`' fields, in the pair's mode."""
    outputs = _outputs(pair, x)
    contextual, latent = (
        None if one is None or other is None else (one - other).abs().flatten(1).double().mean(dim=1)
        for one, other in ((x, outputs.reconstruction), (outputs.features_x, outputs.features_reconstruction))
    )
    maps = anomaly_map(x, outputs)
    peak = map_peak(maps, outputs).double()
    return contextual, latent, peak, maps, outputs.self_supervision, outputs.memory, outputs.published, outputs.pointing


def _outputs(pair: Pair, x: torch.Tensor) -> PairOutputs:
    if isinstance(pair, AnoGan):  # the one system whose latent vectors have to be searched for
        return pair.outputs_at(x, search_latent(pair, x))
    return pair.outputs(x)


def _empty(found: tuple[torch.Tensor | None, ...], count: int) -> PatchComponents:
    """Room for the components of `count` patches, of those kinds that `found` has."""
    values = (
        None if v is None else np.empty((count, *v.shape[1:]), np.float64 if v.ndim == 1 else np.float32) for v in found
    )
    return PatchComponents(*values)  # type: ignore[arg-type]


@contextmanager
def exact_evaluation(pair: Pair) -> Iterator[None]:
    """Evaluation mode and `exact_arithmetic`; the networks' former modes come back at the end."""
    networks = list(pair.networks().values())
    modes = [network.training for network in networks]
    with exact_arithmetic(pair):
        try:
            pair.eval()
            yield
        finally:
            for network, mode in zip(networks, modes, strict=True):
                network.train(mode)


@contextmanager
def exact_arithmetic(pair: Pair) -> Iterator[None]:
    """No gradients, no autocast, no TF32, no kernel chosen by timing."""
    device = next(pair.parameters()).device.type
    tf32 = torch.backends.cuda.matmul.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False))
        try:
            torch.backends.cuda.matmul.allow_tf32 = False
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = tf32


# -------------------------------------------------------------------------------------------------------- whole splits


def score_split(
    pair: Pair,
    shards: PatchShards,
    table_path: Path,
    maps_folder: Path,
    score: ScoreSection,
    stamped: pa.Table | None = None,
) -> None:
    """Scores all patches of a split, regions of interest included, bucket by bucket.

    A bucket on disk that was made by the same pair from the same shard in the same way is kept; so a run that was
    killed is continued by the next one, an added image costs one bucket, and the bytes on disk are always those of a
    single run from nothing. The table is written last: where it lies, the folder is whole.

    Args:
        pair: The pair; is moved to the device.
        shards: The split's patches.
        table_path: Of the table records.PATCH_SCORES, its first rows as in the patch index.
        maps_folder: Of the anomaly maps.
        score: Batch size and device.
        stamped: From `score_stamped`: rows that follow those of the patch index.

    Raises:
        ScoreNotFinite: A component or a map is NaN or infinite; the message names the patch.
        ConfigError: The device is not there.
        DataError: A shard is missing or damaged.
    """
    device = device_of(score.device)
    maps_folder = Path(maps_folder)
    maps_folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(maps_folder, shards.buckets)
    made_by = [FORMAT_VERSION, pair_digest(pair), score.batch_size, device.type, torch.__version__]
    digests = {}
    for bucket in shards.buckets:
        source = shards.record(bucket)
        digests[bucket] = digest_json([*made_by, source["digest"], source["files"]])
    missing = [bucket for bucket, digest in digests.items() if not _is_whole(maps_folder, bucket, digest)]
    pieces = _scored_pieces(pair, shards, missing, device, score.batch_size)
    for bucket, of_bucket in groupby(pieces, key=itemgetter(0)):
        _write_bucket(shards, bucket, (scored for _, scored in of_bucket), maps_folder, digests[bucket])
    parts = (_table_part(shards, bucket, maps_folder) for bucket in shards.buckets)
    PATCH_SCORES.write_parts(table_path, chain(parts, [] if stamped is None else [stamped]))


def score_stamped(
    pair: Pair, shards: PatchShards, rows: NDArray[np.int64], stamped: NDArray[np.uint8], score: ScoreSection
) -> pa.Table:
    """Components of copies of normal patches with pseudo-anomalies stamped in: records.PATCH_SCORES, source "stamped".

    A copy stands alone (`PatchComponents.alone`).

    Args:
        pair: The pair; is moved to the device.
        shards: Where the patches were taken from.
        rows: [N], of the patches.
        stamped: The copies, uint8 [N, P, P, C].
        score: Batch size and device.

    Raises:
        ScoreNotFinite, ConfigError: As `score_split`.
    """
    found = score_patches(pair, stamped, device=device_of(score.device), batch_size=score.batch_size).alone()
    part = shards.index.take(rows)
    part = part.set_column(part.column_names.index("source"), "source", pa.array(["stamped"] * len(rows)))
    part = part.set_column(part.column_names.index("label"), "label", pa.array([ANOMALOUS] * len(rows), pa.int8()))
    return _with_components(part, {name: pa.array(values) for name, values in found.columns().items()})


def device_of(name: str) -> torch.device:
    """The device of a params file's `device`: `auto` is the GPU where there is one.

    Raises:
        ConfigError: A GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("score.device is 'cuda', and torch finds no GPU; set it to 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pair_digest(pair: Pair) -> str:
    """The SHA-256 over spec, weights and memory: pairs with equal digests give equal scores."""
    sha = hashlib.sha256(canonical_json(pair.spec.model_dump(mode="json")).encode())
    for part in (*pair.networks().values(), *([] if pair.memory is None else [pair.memory])):
        for name, tensor in sorted(part.state_dict().items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _scored_pieces(
    pair: Pair, shards: PatchShards, buckets: list[int], device: torch.device, batch_size: int
) -> Iterator[tuple[int, PatchComponents]]:
    """The components of the buckets' rows, in order, in pieces of one bucket each.

    Batches run across buckets, so that small buckets do not leave batches mostly empty; what a patch scores does not
    depend on it.
    """
    rows = np.concatenate([np.empty(0, np.int64), *(shards.rows_of(bucket=bucket) for bucket in buckets)])
    bucket_of_row = np.repeat(buckets, [len(shards.rows_of(bucket=bucket)) for bucket in buckets])
    progress = Progress(f"score {shards.folder.name}", len(rows), "patches")
    for start in range(0, len(rows), batch_size):
        here = rows[start : start + batch_size]
        try:
            scored = score_patches(pair, shards.read(here), device=device, batch_size=batch_size)
        except ScoreNotFinite as error:
            first, last = shards.index.column("patch_id").take(here[[0, -1]]).to_pylist()
            raise ScoreNotFinite(f"{shards.folder}, patches {first} to {last}: {error}") from error
        buckets_here = bucket_of_row[start : start + batch_size]
        for bucket in np.unique(buckets_here).tolist():
            yield bucket, scored.rows(buckets_here == bucket)
        progress.advance(len(here))
    progress.close(f"{len(shards.buckets) - len(buckets)} of {len(shards.buckets)} buckets kept")


def _write_bucket(
    shards: PatchShards, bucket: int, pieces: Iterator[PatchComponents], maps_folder: Path, digest: str
) -> None:
    maps_path, record_path = _paths(maps_folder, bucket)
    record_path.unlink(missing_ok=True)  # or a kill between the two files could pair new maps with an old record
    columns: dict[str, list[NDArray[np.float64]]] = {}
    shape = (len(shards.rows_of(bucket=bucket)), shards.patch_size, shards.patch_size)
    with written_aside(maps_path) as new:
        maps, written = np.lib.format.open_memmap(new, "w+", np.float16, shape), 0
        for scored in _with_stitched_peaks(shards.index_of(bucket), pieces):
            maps[written : written + len(scored.maps)] = scored.maps
            written += len(scored.maps)
            for name, values in scored.columns().items():
                columns.setdefault(name, []).append(values)
        maps.flush()
        del maps
    record = {"vigil.digest": digest, "vigil.maps": digest_file(maps_path)}
    table = pa.table({name: np.concatenate(parts) for name, parts in columns.items()}, metadata=record)
    with written_aside(record_path) as new:
        pq.write_table(table, new, compression="zstd")


def _with_stitched_peaks(index: pa.Table, pieces: Iterator[PatchComponents]) -> Iterator[PatchComponents]:
    """The pieces with `stitched_peak`, where the pair points, in pieces that no longer split an image.

    Args:
        index: Rows of the patch index; the grid patches of an image follow each other.
        pieces: The components of these rows.
    """
    rows = index.select(["image_id", "source", "y", "x"]).to_pylist()
    waiting: PatchComponents | None = None
    for piece in pieces:
        if piece.log_odds is None:
            yield piece
            continue
        waiting = piece if waiting is None else _joined(waiting, piece)
        whole = len(waiting.maps)
        if whole < len(rows):  # the last image may go on
            last = rows[whole - 1]["image_id"]
            whole = next((i + 1 for i in reversed(range(whole)) if rows[i]["image_id"] != last), 0)
        if whole:
            yield _stitched(waiting.rows(np.s_[:whole]), rows[:whole])
            waiting, rows = waiting.rows(np.s_[whole:]), rows[whole:]


def _stitched(found: PatchComponents, rows: Sequence[Mapping[str, Any]]) -> PatchComponents:
    """`found`, of whole images, with `stitched_peak`; a region of interest, which no grid patch need meet, has that of
    itself alone."""
    assert found.log_odds is not None
    peaks = np.empty(len(rows), np.float64)
    of_regions = [number for number, row in enumerate(rows) if row["source"] != "grid"]
    peaks[of_regions] = _peaks_alone(found.log_odds[of_regions])
    of_images: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if row["source"] == "grid":
            of_images.setdefault(row["image_id"], []).append(number)
    for own in of_images.values():
        positions = np.array([(rows[number]["y"], rows[number]["x"]) for number in own], np.int64)
        peaks[own] = stitched_peaks(found.log_odds[own], positions)
    return found._replace(stitched_peak=peaks)


def _peaks_alone(log_odds: NDArray[np.float32]) -> NDArray[np.float64]:
    """The stitched peaks of patches without neighbours, [N, P, P] -> [N]."""
    here = np.zeros((1, 2), np.int64)
    return np.array([stitched_peaks(own[None], here)[0] for own in log_odds], np.float64)


def _joined(first: PatchComponents, second: PatchComponents) -> PatchComponents:
    pairs = zip(first, second, strict=True)
    return PatchComponents(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in pairs))  # type: ignore[arg-type]


def _is_whole(maps_folder: Path, bucket: int, digest: str) -> bool:
    """Whether the bucket on disk carries this digest and its files fit each other."""
    maps_path, record_path = _paths(maps_folder, bucket)
    if not record_path.exists() or not maps_path.exists():
        return False
    try:
        found = pq.read_table(record_path).schema.metadata or {}
    except (pa.ArrowInvalid, OSError):
        return False
    recorded = (found.get(b"vigil.digest", b"").decode(), found.get(b"vigil.maps", b"").decode())
    return recorded == (digest, digest_file(maps_path))


def _table_part(shards: PatchShards, bucket: int, maps_folder: Path) -> pa.Table:
    part = shards.index_of(bucket)
    components = pq.read_table(_paths(maps_folder, bucket)[1])
    return _with_components(part, {name: components.column(name) for name in components.column_names})


def _with_components(part: pa.Table, components: Mapping[str, Any]) -> pa.Table:
    """Rows of a patch index as rows of records.PATCH_SCORES."""
    for name, values in components.items():
        part = part.append_column(PATCH_SCORES.field(name), values)
    possible = [*PATCH_SCORES.schema.names, *(field.name for field in PATCH_SCORES.optional)]
    return part.select([name for name in possible if name in part.column_names])


def _paths(maps_folder: Path, bucket: int) -> tuple[Path, Path]:
    return maps_folder / f"bucket-{bucket:04d}.npy", maps_folder / f"bucket-{bucket:04d}.parquet"


def _remove_leftovers(maps_folder: Path, buckets: tuple[int, ...]) -> None:
    """Removes what a killed run left aside, and buckets that the split no longer has."""
    ours = {path.name for bucket in buckets for path in _paths(maps_folder, bucket)}
    for path in maps_folder.iterdir():
        if path.name not in ours and (path.name.startswith("bucket-") or ".aside-" in path.name):
            path.unlink()
