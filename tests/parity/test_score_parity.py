"""Eq. (6), Eq. (7) and the components against plain NumPy loops that share no code with the package."""

import numpy as np
import torch

from vigil.calibration.normalisation import apply_scale, fit_scale, weighted_score
from vigil.config import ModelSection
from vigil.networks.pair import Pair, PairSpec, build_pair
from vigil.scoring.anomaly_map import smooth, spread
from vigil.scoring.scorer import score_patches
from vigil.seeding import numpy_generator


def pair_and_patches(channels: int) -> tuple[Pair, np.ndarray]:
    model = ModelSection(base_width=4, depth=2, max_width=64, discriminator_width=32, feature_channels=8)
    patches = numpy_generator(0, "score parity").integers(0, 256, (5, 32, 32, channels), dtype=np.uint8)
    return build_pair(PairSpec(channels=channels, patch_size_px=32, model=model), seed=3), patches


def mean_by_loops(values: np.ndarray) -> float:
    total = 0.0
    for value in values.ravel().tolist():
        total += value
    return total / values.size


def smooth_by_loops(image: np.ndarray, window: int) -> np.ndarray:
    height, width = image.shape
    smoothed = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for v in range(y - window // 2, y + window // 2 + 1):
                for u in range(x - window // 2, x + window // 2 + 1):
                    inside_v, inside_u = height - 1 - abs(height - 1 - abs(v)), width - 1 - abs(width - 1 - abs(u))
                    smoothed[y, x] += image[inside_v, inside_u] / window**2
    return smoothed


def test_components_equal_plain_loops() -> None:
    for channels in (1, 3):
        pair, patches = pair_and_patches(channels)
        scored = score_patches(pair, patches, device="cpu", batch_size=4)
        pair.eval()
        for number, patch in enumerate(patches):
            x = patch.astype(np.float64).transpose(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                reconstruction = pair.generator(torch.tensor(x, dtype=torch.float32))
                f_x = pair.discriminator(torch.tensor(x, dtype=torch.float32)).features.numpy().astype(np.float64)
                f_reconstruction = pair.discriminator(reconstruction).features.numpy().astype(np.float64)
            residual = np.abs(x - reconstruction.numpy())
            np.testing.assert_allclose(scored.contextual[number], mean_by_loops(residual), rtol=1e-5)
            np.testing.assert_allclose(
                scored.latent[number], mean_by_loops(np.abs(f_x - f_reconstruction)), rtol=1e-4, atol=1e-7
            )
            expected_map = smooth_by_loops(residual[0].mean(axis=0), 5)
            np.testing.assert_allclose(scored.maps[number], expected_map, atol=1e-5)
            np.testing.assert_allclose(scored.map_peak[number], expected_map.max(), rtol=1e-5)


def test_smoothing_equals_plain_loops_for_the_large_window() -> None:
    image = numpy_generator(1, "score parity").random((64, 64))
    smoothed = smooth(torch.tensor(image)[None])[0].numpy()
    np.testing.assert_allclose(smoothed, smooth_by_loops(image, 11), atol=1e-12)


def spread_by_loops(image: np.ndarray, sigma: float) -> np.ndarray:
    side = len(image)
    reach = range(-int(np.ceil(3 * sigma)), int(np.ceil(3 * sigma)) + 1)
    total = sum(np.exp(-(v**2) / (2 * sigma**2)) for v in reach)
    means = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            for v in reach:
                for u in reach:
                    inside_v, inside_u = side - 1 - abs(side - 1 - abs(y + v)), side - 1 - abs(side - 1 - abs(x + u))
                    means[y, x] += image[inside_v, inside_u] * np.exp(-(v**2 + u**2) / (2 * sigma**2)) / total**2
    return means


def test_spreading_equals_plain_loops() -> None:
    image = numpy_generator(3, "score parity").random((32, 32))
    found = spread(torch.tensor(image, dtype=torch.float32)[None])[0].numpy()
    np.testing.assert_allclose(found, spread_by_loops(image, 1.5), atol=1e-6)


def test_eq6_and_eq7_equal_plain_loops() -> None:
    random = numpy_generator(2, "score parity")
    a_g, a_d, eta = random.random(50), random.random(50), 0.35
    scores = [eta * a_g[i] + (1 - eta) * a_d[i] for i in range(50)]
    lowest, highest = min(scores), max(scores)
    scaled = [(score - lowest) / (highest - lowest) for score in scores]
    fitted = weighted_score(a_g, a_d, eta)
    np.testing.assert_allclose(fitted, scores, rtol=1e-15)
    np.testing.assert_allclose(apply_scale(fitted, *fit_scale(fitted)), scaled, rtol=1e-12)
