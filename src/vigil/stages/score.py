"""score: components and anomaly maps of every calibration and test patch, apart."""

from __future__ import annotations

from vigil.config import ScoreSection
from vigil.stages import layout


def run(score: ScoreSection) -> None:
    """Scores calibration, then test, shard by shard; finished shards are kept."""
    from vigil.images.shards import PatchShards
    from vigil.networks.pair import load_pair
    from vigil.scoring.scorer import score_split

    pair, _ = load_pair(layout.PAIR)
    for split, table in layout.SCORES.items():
        score_split(pair, PatchShards.open(layout.PATCHES[split]), table, layout.MAPS[split], score)
