import pytest
import torch

from vigil.networks.pair import PairOutputs
from vigil.scoring.anomaly_map import anomaly_map, map_peak, residual_map, smooth, smoothing_window, spread, spread_px


def test_residual_is_the_mean_absolute_difference_over_channels() -> None:
    x, reconstruction = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    reconstruction[0, :, 0, 1] = torch.tensor([0.3, -0.6, 0.0])
    assert residual_map(x, reconstruction)[0].flatten().tolist() == pytest.approx([0.0, 0.3, 0.0, 0.0])


@pytest.mark.parametrize(("patch", "window"), [(32, 5), (64, 11), (128, 11), (256, 11)])
def test_window_is_odd_and_smaller_for_small_patches(patch: int, window: int) -> None:
    assert smoothing_window(patch) == window


def test_one_hot_pixel_is_spread_over_the_window_and_keeps_its_mass() -> None:
    maps = torch.zeros(2, 64, 64)
    maps[1, 30, 20] = 121.0
    smoothed = smooth(maps)
    assert smoothed.shape == maps.shape
    assert smoothed[0].abs().max() == 0
    expected = torch.zeros(64, 64)
    expected[25:36, 15:26] = 1.0
    torch.testing.assert_close(smoothed[1], expected)


def test_the_border_is_reflected_so_that_a_constant_map_stays_constant() -> None:
    torch.testing.assert_close(smooth(torch.full((1, 32, 32), 0.7)), torch.full((1, 32, 32), 0.7))


@pytest.mark.parametrize(("patch", "sigma"), [(32, 1.5), (64, 3.0), (128, 6.0), (256, 6.0)])
def test_a_find_is_spread_less_in_small_patches(patch: int, sigma: float) -> None:
    assert spread_px(patch) == sigma
    maps = torch.zeros(1, patch, patch)
    maps[0, patch // 2, patch // 3] = 1.0
    spread_out = spread(maps)[0].to(torch.float64)
    assert spread_out.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert divmod(int(spread_out.argmax()), patch) == (patch // 2, patch // 3)
    rows = spread_out.sum(dim=1)
    variance = (rows * (torch.arange(patch) - patch // 2) ** 2).sum().item()
    assert variance**0.5 == pytest.approx(sigma, rel=0.02)


def test_spreading_keeps_a_constant_map_and_probabilities() -> None:
    torch.testing.assert_close(spread(torch.full((2, 32, 32), 0.7)), torch.full((2, 32, 32), 0.7))
    spread_out = spread(torch.rand(1, 128, 128, generator=torch.Generator().manual_seed(0)).round())
    assert 0 <= spread_out.min() < spread_out.max() <= 1 + 1e-6


def test_the_pair_that_points_is_believed_instead_of_the_residual() -> None:
    x, reconstruction = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    features = torch.zeros(1, 4, 2, 2)
    pointing = torch.zeros(1, 32, 32)
    residual = anomaly_map(x, PairOutputs(reconstruction, features, features, None))
    pointed = anomaly_map(x, PairOutputs(reconstruction, features, features, pointing + 2.0))
    torch.testing.assert_close(residual, torch.full((1, 32, 32), 0.5))
    torch.testing.assert_close(pointed, torch.full((1, 32, 32), float(torch.sigmoid(torch.tensor(2.0)))))


def test_the_peak_is_the_probability_at_the_mean_log_odds_of_the_surest_pixels_where_the_pair_points() -> None:
    x = torch.zeros(2, 1, 32, 32)
    features, pointing = torch.zeros(2, 4, 2, 2), torch.full((2, 32, 32), -20.0)
    pointing[1, 3, 4:10] = 20.0  # 6 pixels in a row: 0.5 % of 32 x 32, rounded up
    outputs = PairOutputs(x, features, features, pointing)
    torch.testing.assert_close(map_peak(anomaly_map(x, outputs), outputs), torch.tensor([0.0, 1.0]))
    pointing[1, 3, 4:10] = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0, -2.0])  # mean .5; that of the probabilities is .58
    pointing[0, 3, 4:10] = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0, -1.0])
    expected = torch.sigmoid(torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(map_peak(anomaly_map(x, outputs), outputs), expected)


def test_the_peak_is_the_maximum_of_the_smoothed_residual_elsewhere() -> None:
    maps = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = PairOutputs(torch.zeros(3, 1, 32, 32), torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 2), None)
    assert torch.equal(map_peak(maps, outputs), maps.amax(dim=(1, 2)))
