"""Laws of scores: an image's score is its own, whatever stands beside it."""

from functools import lru_cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vigil.config import AttentionSection, ModelSection, ReductionSection
from vigil.networks.pair import Pair, PairSpec, build_pair
from vigil.scoring.reduction import image_scores
from vigil.scoring.scorer import PatchComponents, score_patches
from vigil.seeding import numpy_generator

BATCH = 4


@lru_cache
def tiny_pair() -> Pair:
    attention = AttentionSection(heads=2, key_channels=4, value_channels=4)
    model = ModelSection(
        base_width=4, depth=2, max_width=16, discriminator_width=8, feature_channels=8, attention=attention
    )
    return build_pair(PairSpec(channels=1, patch_size_px=32, model=model), seed=0)


def scored(patches: np.ndarray) -> PatchComponents:
    return score_patches(tiny_pair(), patches, device="cpu", batch_size=BATCH)


@lru_cache
def pool() -> tuple[np.ndarray, PatchComponents]:
    patches = numpy_generator(0, "score property").integers(0, 256, (12, 32, 32, 1), dtype=np.uint8)
    patches[3], patches[4] = 0, 255
    return patches, scored(patches)


@given(st.lists(st.integers(0, 11), min_size=1, max_size=9))
@settings(max_examples=25, deadline=None)
def test_a_patch_scores_the_same_bits_in_every_company(chosen: list[int]) -> None:
    patches, reference = pool()
    here = scored(patches[chosen])
    expected = reference.arrays()
    for name, values in here.arrays().items():
        assert np.array_equal(values, expected[name][chosen]), name


IMAGES = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), min_size=1, max_size=6)
REDUCTIONS = st.builds(ReductionSection, name=st.sampled_from(["max", "top_k_mean"]), k=st.integers(1, 8))


@given(IMAGES, REDUCTIONS, st.randoms(use_true_random=False))
def test_an_image_score_is_the_same_alone_and_among_others_in_any_order(images, reduction, random) -> None:  # type: ignore[no-untyped-def]
    rows = [(number, score) for number, patches in enumerate(images) for score in patches]
    random.shuffle(rows)
    together = image_scores(np.array([s for _, s in rows]), np.array([n for n, _ in rows]), reduction)
    for number, patches in enumerate(images):
        alone = image_scores(np.array(patches), np.zeros(len(patches), np.intp), reduction)
        assert alone[0] == together[number]
        best = sorted(patches)[-(1 if reduction.name == "max" else reduction.k) :]
        np.testing.assert_allclose(alone[0], np.mean(best), rtol=1e-12, atol=1e-12)


@given(IMAGES, REDUCTIONS, st.floats(0, 100))
def test_a_higher_patch_score_never_lowers_the_image_score(images, reduction, rise) -> None:  # type: ignore[no-untyped-def]
    patches = np.array(images[0])
    raised = patches.copy()
    raised[0] += rise
    zeros = np.zeros(len(patches), np.intp)
    assert image_scores(raised, zeros, reduction)[0] >= image_scores(patches, zeros, reduction)[0] - 1e-9
