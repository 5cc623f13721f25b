"""score: components and anomaly maps of every calibration and test patch, apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vigil.config import ScoreSection, TrainSection
from vigil.seeding import numpy_generator
from vigil.stages import layout
from vigil.stages.stamping import stamped_copies

if TYPE_CHECKING:
    import pyarrow as pa

    from vigil.images.shards import PatchShards
    from vigil.networks.pair import Pair


def run(score: ScoreSection) -> None:
    """Scores calibration, then test, shard by shard; finished shards are kept."""
    from vigil.images.shards import PatchShards
    from vigil.networks.pair import load_pair
    from vigil.scoring.scorer import score_split

    pair, record = load_pair(layout.PAIR)
    for split, table in layout.SCORES.items():
        shards = PatchShards.open(layout.PATCHES[split])
        stamped = _stamped(pair, record, shards, score) if split == "calibration" and score.stamped_patches else None
        score_split(pair, shards, table, layout.MAPS[split], score, stamped)


def _stamped(pair: Pair, record: dict[str, Any], shards: PatchShards, score: ScoreSection) -> pa.Table:
    """The scores of some normal calibration patches with pseudo-anomalies, of the pair's own kind."""
    import numpy as np

    from vigil.records import NORMAL
    from vigil.scoring.scorer import score_stamped

    grid = shards.rows_of(source="grid")
    normal = grid[shards.index.column("image_label").take(grid).to_numpy() == NORMAL]
    train, seed = TrainSection.model_validate(record["train"]), int(record["seed"])
    rows = np.sort(numpy_generator(seed, "stamped patches").permutation(normal)[: score.stamped_patches])
    stamped = stamped_copies(shards.read(rows), train.pseudo_anomalies, seed, "stamped patches")
    return score_stamped(pair, shards, rows, stamped, score)
