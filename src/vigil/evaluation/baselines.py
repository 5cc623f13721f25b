"""What needs no training: trivial image features, and the features of an untrained discriminator.

A trained pair that does not rank better than these has learned nothing useful.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from vigil.config import PatchSection, ReductionSection
from vigil.evaluation.localisation import stitched_images
from vigil.images.dataset import to_tensor
from vigil.images.shards import PatchShards
from vigil.networks.pair import PairSpec, build_pair
from vigil.progress import Progress
from vigil.scoring.reduction import image_scores
from vigil.seeding import numpy_generator

Values = NDArray[np.float64]

_REFERENCE_PATCHES = 2000
_FITTED_PATCHES = 4000
_BATCH = 64
_HISTOGRAM_BINS = 32


def trivial_features(
    test: PatchShards, train: PatchShards, patch: PatchSection, file_bytes: Mapping[str, int], seed: int
) -> tuple[list[str], dict[str, Values]]:
    """Trivial features of the test images, each as if it were a score.

    All but the file's size are taken of the scaled pixels that the pair sees, from 0 to 1. Colour features exist for
    images with three channels only.

    Args:
        test: The images to measure.
        train: Normal patches, of which a seeded sample gives the usual histogram.
        patch: How the patches were cut.
        file_bytes: Length of the encoded file of each test image.
        seed: Of the sample.

    Returns:
        The image ids, and each feature by name, [M] in the order of the ids.
    """
    usual = _histogram(train.read(_sample(train, _REFERENCE_PATCHES, seed)))
    ids, rows = [], []
    for image in stitched_images(test, patch):
        ids.append(image.image_id)
        distance = float(np.abs(_histogram(image.pixels[None]) - usual).sum())
        rows.append({**pixel_features(image.pixels), "histogram_distance": distance})
    features = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return ids, {**features, "file_bytes": np.array([file_bytes[image_id] for image_id in ids], np.float64)}


def pixel_features(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Trivial features of one image or patch [H, W, C], of its pixels from 0 to 1."""
    image = pixels.astype(np.float64) / 255
    grey = image.mean(axis=2)
    around = np.pad(grey, 1, mode="edge")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * grey
    features = {
        "brightness": grey.mean(),
        "contrast": grey.std(),
        "laplacian_energy": (laplacian**2).mean(),
        "dark_share": (grey < 0.2).mean(),
        "bright_share": (grey > 0.95).mean(),
    }
    if image.shape[2] == 3:
        red, blue = image[:, :, 0], image[:, :, 2]
        features["colourfulness"] = (image.max(axis=2) - image.min(axis=2)).mean()
        features["blue_share"] = (blue > red + 0.1).mean()  # metal, in the pseudo-colours of dual-energy scanners
    return {name: float(value) for name, value in features.items()}


def _histogram(images: NDArray[np.uint8]) -> Values:
    """The share of each of 32 levels in each channel, over all images [N, H, W, C]."""
    levels = images.astype(np.intp) * _HISTOGRAM_BINS // 256
    channels = [np.bincount(levels[..., c].ravel(), minlength=_HISTOGRAM_BINS) for c in range(images.shape[-1])]
    return np.concatenate(channels) / levels[..., 0].size


def _sample(shards: PatchShards, count: int, seed: int) -> NDArray[np.int64]:
    rows = shards.rows_of("grid")
    chosen = numpy_generator(seed, "baseline patches").choice(rows, min(count, len(rows)), replace=False)
    return np.sort(chosen)


def untrained_scores(
    spec: PairSpec, test: PatchShards, train: PatchShards, *, seed: int, device: torch.device | str = "cpu"
) -> tuple[list[str], Values]:
    """Mahalanobis distance of each test image in the feature space of a discriminator with its initial weights.

    A patch's features are the mean and the standard deviation over positions of every activation of the
    discriminator. Mean and covariance (Ledoit-Wolf shrinkage) are those of a seeded sample of normal training patches.
    An image's score is that of its most distant grid patch.

    Args:
        spec: Of what was trained; the baseline is the discriminator of the paper's pair with the same widths.
        test: The images to score.
        train: Normal patches.
        seed: Of the weights and of the sample.
        device: Where to compute the features.

    Returns:
        The image ids, and their scores, [M].
    """
    of_pair = spec.model_copy(update={"model": spec.model.model_copy(update={"name": "dense_skip_gan"})})
    discriminator = build_pair(of_pair, seed).networks()["discriminator"].to(device).eval()
    fitted = LedoitWolf().fit(_features(discriminator, train, _sample(train, _FITTED_PATCHES, seed), device))
    rows = test.rows_of("grid")
    distances = fitted.mahalanobis(_features(discriminator, test, rows, device))
    image_ids = np.asarray(test.index.column("image_id").take(rows).to_pylist(), dtype=np.str_)
    ids, image = np.unique(image_ids, return_inverse=True)
    return ids.tolist(), image_scores(distances, image, ReductionSection(name="max"))


@torch.inference_mode()
def _features(
    discriminator: nn.Module, shards: PatchShards, rows: NDArray[np.int64], device: torch.device | str
) -> Values:
    collected: list[Tensor] = []

    def collect(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        collected.extend([output.mean(dim=(2, 3)), output.std(dim=(2, 3), correction=0)])

    hooks = [m.register_forward_hook(collect) for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)]
    progress = Progress("untrained baseline", len(rows), "patches")
    features = []
    for start in range(0, len(rows), _BATCH):
        batch = shards.read(rows[start : start + _BATCH])
        discriminator(to_tensor(batch, device))
        features.append(torch.cat(collected, dim=1).double().cpu().numpy())
        collected.clear()
        progress.advance(len(batch))
    for hook in hooks:
        hook.remove()
    progress.close()
    return np.concatenate(features)
