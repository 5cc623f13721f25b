"""The systems by name: what `model.name` in params.yaml may be."""

from __future__ import annotations

from vigil.config import SystemName
from vigil.networks.baselines.anogan import AnoGan
from vigil.networks.baselines.dagan import Dagan
from vigil.networks.baselines.egbad import Egbad
from vigil.networks.baselines.ganomaly import Ganomaly
from vigil.networks.baselines.patch_svdd import PatchSvdd
from vigil.networks.baselines.skip_ganomaly import SkipGanomaly
from vigil.networks.baselines.unet_autoencoder import UNetAutoencoder
from vigil.networks.dense_skip_gan import DenseSkipGan
from vigil.networks.system import Pair

SYSTEMS: dict[SystemName, type[Pair]] = {
    "dense_skip_gan": DenseSkipGan,
    "anogan": AnoGan,
    "egbad": Egbad,
    "ganomaly": Ganomaly,
    "skip_ganomaly": SkipGanomaly,
    "dagan": Dagan,
    "unet_autoencoder": UNetAutoencoder,
    "patch_svdd": PatchSvdd,
}
