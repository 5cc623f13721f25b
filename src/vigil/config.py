"""`params.yaml` as frozen, strict sections: one per stage, every rule checked before any file is opened.

Parsed as YAML 1.2, the way DVC parses it (`2e-4` is a number). A JSON file of the same shape is accepted too, and
needs no YAML package.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from vigil.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _added(default: Any) -> Any:
    """The default of a key that came after pairs were released: it is left out of what is written where it has this
    value, so that their bytes and digests stay what they were."""
    return Field(default=default, exclude_if=lambda value: value == default)


class Section(BaseModel):
    """A strict, frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


# --------------------------------------------------------------------------------------------------------------- data


class BaggageData(Section):
    """The X-ray baggage simulator; the `raw` stage generates the scans."""

    name: Literal["baggage"]
    root: str
    """Folder of the raw data set, in SIXray's layout."""
    seed: int = 0
    normal_bags: Annotated[int, Field(ge=0)] = 700
    """Bags without a threat."""
    threat_bags: Annotated[int, Field(ge=0)] = 200
    """Bags with one threat object each, the six classes in turn."""
    width_px: Annotated[int, Field(ge=64, le=4096)] = 256
    height_px: Annotated[int, Field(ge=64, le=4096)] = 192


class ImportedData(Section):
    """What the imported data sets have in common (SIXray has a rule of its own, see `vigil.images.manifest`)."""

    near_repeats: Literal["within_official_splits", "everywhere", "never"] = "within_official_splits"
    """Which images that are near-duplicates of one another form one group, by the leakage audit's own rule, so that no
    split tears them apart. `within_official_splits`: those that the data set does not itself put into different splits;
    the audit names the others as a finding. `everywhere`: those too; with `split.official`, the training image of such
    a pair is left out. `never`: exact copies alone. Raw images are compared: a copy of another resolution that looks
    like its original only once both are scaled down may be missed, and then the audit finds it."""


class HeldClassData(Section):
    """A labelled image set turned into an anomaly task by holding classes."""

    root: str
    protocol: Literal["one_class_anomalous", "one_class_normal"] = "one_class_anomalous"
    """`one_class_anomalous`: the held class is the anomaly, all others are normal (GANomaly, Skip-GANomaly).
    `one_class_normal`: the held class is normal, all others are anomalies."""
    held_class: str


class DigitsData(HeldClassData):
    """scikit-learn's 1,797 handwritten digits (8x8); the `raw` stage writes them."""

    name: Literal["digits"]


class Cifar10Data(HeldClassData, ImportedData):
    """CIFAR-10, brought in by `vigil data import cifar10 --from PATH`."""

    name: Literal["cifar10"]


class MvtecData(ImportedData):
    """MVTec AD, brought in by `vigil data import mvtec --from PATH [--class CATEGORY ...]`."""

    name: Literal["mvtec"]
    root: str
    category: str | tuple[str, ...]
    """A category (`bottle`), several (`[bottle, tile]`), or `all` that are there. Where more than one may come, kinds
    are named `<category>/<kind>`."""

    @model_validator(mode="after")
    def _distinct(self) -> MvtecData:
        names = [self.category] if isinstance(self.category, str) else list(self.category)
        if not names or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"category needs at least one name and no name twice, got {names}")
        if "all" in names[1:] or (names[0] == "all" and not isinstance(self.category, str)):
            raise ValueError("category 'all' stands alone: write `category: all`")
        return self


class MagneticTileData(ImportedData):
    """Magnetic tile surface defects (Huang et al., 2018), brought in by `vigil data import magnetic_tile`."""

    name: Literal["magnetic_tile"]
    root: str


class FolderData(ImportedData):
    """The user's own images: `normal/`, optional `anomalous/<kind>/`, optional `masks/<kind>/` with equal stems; or
    files anywhere below the root, named in a listing."""

    name: Literal["folder"]
    root: str
    listing: str | None = None
    """A CSV or Parquet file below the root with the columns path, label, and if wanted kind, mask, group, split; then
    it alone says which files are images and what they are."""


class SubsetSection(Section):
    """A random part of a data set, drawn by a hash of each image's name, so that no image need be opened for it."""

    images: Annotated[int, Field(ge=1)]
    """Negatives to draw. All positives stay: they are what is tested on."""
    seed: int = 0
    """Another seed draws another part of the same size (the paper's sets A, B, C)."""


class SixrayData(Section):
    """SIXray's layout: `JPEGImages/` (`N*` negative, `P*` positive) and VOC boxes in `Annotation/`."""

    name: Literal["sixray"]
    root: str
    image_set: Literal[10, 100, 1000] | None = None
    """SIXray10, SIXray100 or SIXray1000: the images that `ImageSet/<image_set>/{train,test}.csv` name, with their
    official split; None takes every image in `JPEGImages/`, with no official split."""
    subset: SubsetSection | None = None
    """Draws some of these; None takes all."""


DataSection = Annotated[
    BaggageData | DigitsData | Cifar10Data | MvtecData | MagneticTileData | FolderData | SixrayData,
    Field(discriminator="name"),
]

# ------------------------------------------------------------------------------------------------------------- images


class DriftSection(Section):
    """How far the raw data may be from the data set that `vigil data accept` accepted last."""

    max_count_ratio: Annotated[float, Field(ge=1.0)] = 2.0
    """Images of a kind may be fewer or more than in the accepted set by at most this factor."""
    max_brightness_distance: Fraction = 0.1
    """Largest Kolmogorov-Smirnov distance between the brightness of the images and of the accepted ones, for each
    label, beyond what chance gives two sets of this size in one case of a hundred."""


class ValidateSection(Section):
    """The contract that the raw data must keep."""

    min_side_px: Annotated[int, Field(ge=2)] = 8
    """Images with a shorter side are refused."""
    max_pixels: Annotated[int, Field(ge=64)] = 100_000_000
    """Images with more pixels are refused before they are decoded (decompression bombs)."""
    modes: tuple[Literal["L", "RGB"], ...] = ("L", "RGB")
    """Accepted pixel modes; 16-bit, CMYK, palette and alpha images must be converted by their owner."""
    min_normal_images: Annotated[int, Field(ge=1)] = 20
    kinds: tuple[str, ...] | None = None
    """Kinds that anomalous images may have; None takes every kind."""
    empty_masks_allowed: tuple[str, ...] = ()
    """Ids of the anomalous images whose mask may be empty, by name: the exceptions to the rule that none is. Each
    counts as anomalous, with no known place; one that is listed and whose mask marks something breaks the rule too."""
    drift: DriftSection = DriftSection()
    quarantine: bool = False
    """True: go on without the files that break a rule, and say so in the report. False: stop."""


class SplitSection(Section):
    """Which image serves for what; whole groups (bag, part) at a time."""

    seed: int = 0
    official: bool = True
    """Where the data set names its own test images, keep them as test."""
    calibration_fraction: OpenFraction = 0.15
    """Share of the normal training groups held out for calibration."""
    test_fraction: OpenFraction = 0.25
    """Share of the normal groups held out for test, where there is no official split."""
    calibration_anomaly_fraction: Fraction = 0.0
    """Share of the anomalous groups given to calibration; the rest is test. 0 keeps calibration normal-only."""
    max_train_images: Annotated[int, Field(ge=1)] | None = None
    """Seeded subset of the training images; None takes all."""
    max_calibration_images: Annotated[int, Field(ge=1)] | None = None
    """Seeded subset of the normal calibration images; None takes all."""
    max_test_images: Annotated[int, Field(ge=1)] | None = None
    """Seeded subset of the test images of each label; None takes all."""


class PatchSection(Section):
    """Preprocessing and the patch grid; travels in the bundle."""

    channels: Literal[1, 3] = 3
    shorter_side_px: Annotated[int, Field(ge=8)] | None = None
    """Images are resized so that their shorter side has this length; None keeps native resolution."""
    patch_size_px: Literal[32, 64, 128, 256] = 64
    stride_px: Annotated[int, Field(ge=1)] = 32
    edge: Literal["reflect", "drop"] = "reflect"
    """`reflect`: pad right and bottom by reflection until the grid covers the image. `drop`: leave the rest out."""
    regions_of_interest: bool = False
    """Also cut one patch centred on each mask component or box of the test split (the paper's patch protocol)."""
    anomalous_overlap: OpenFraction = 0.02
    """Share of a patch's pixels that must lie in a mask or box for the patch to be labelled anomalous."""
    buckets: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 16
    """Shards per split; images are assigned to buckets by a hash of their id. `auto`: one per 512 images, at least 4;
    a bucket more leaves all images but those of one bucket where they are."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Processes on this machine; used where `executor` is `processes`."""
    executor: Literal["processes", "dask"] = "processes"
    """Where patches are cut: on this machine, or on a Dask cluster whose workers see the same files. Same bytes."""
    scheduler: str | None = None
    """Address of the cluster's scheduler, e.g. tcp://10.0.0.5:8786; used where `executor` is `dask`."""

    @model_validator(mode="after")
    def _stride_covers(self) -> PatchSection:
        if self.stride_px > self.patch_size_px:
            raise ValueError(
                f"stride_px ({self.stride_px}) is larger than patch_size_px ({self.patch_size_px}), which would leave "
                f"pixels that no patch covers; lower stride_px"
            )
        if self.shorter_side_px is not None and self.edge == "drop" and self.shorter_side_px < self.patch_size_px:
            raise ValueError(
                f"shorter_side_px ({self.shorter_side_px}) is smaller than patch_size_px ({self.patch_size_px}) and "
                f"edge is 'drop', so no patch would be cut; raise shorter_side_px or set edge to 'reflect'"
            )
        if self.executor == "dask" and not self.scheduler:
            raise ValueError("executor is 'dask', but scheduler is not set; give it the address of a Dask scheduler")
        return self


# -------------------------------------------------------------------------------------------------- networks, training


class AttentionSection(Section):
    """The attention-augmented convolution before the discriminator's last convolution."""

    enabled: bool = True
    heads: Annotated[int, Field(ge=1)] = 4
    key_channels: Annotated[int, Field(ge=1)] = 32
    """Channels of queries and keys over all heads; a multiple of `heads`."""
    value_channels: Annotated[int, Field(ge=1)] = 32
    """Channels of values over all heads; a multiple of `heads`, smaller than the layer's output channels."""

    @model_validator(mode="after")
    def _multiples(self) -> AttentionSection:
        for field in ("key_channels", "value_channels"):
            if getattr(self, field) % self.heads:
                raise ValueError(f"{field} ({getattr(self, field)}) is not a multiple of heads ({self.heads})")
        return self


class SelfSupervisionSection(Section):
    """A trunk of the discriminator that tells by how many quarters a patch was turned. Beyond the paper.

    For images of one kind of thing with an up and a down; textures and X-ray scans have none.
    """

    enabled: bool = False
    width: Annotated[int, Field(ge=8, le=512, multiple_of=8)] = 64
    """Channels at half resolution; twice and four times as many below."""
    blocks: Annotated[int, Field(ge=1, le=16)] = 1
    """Residual blocks per level, of which there are three."""


class MemorySection(Section):
    """How normal training patches lie in the discriminator's features. Beyond the paper."""

    enabled: bool = False
    features: Literal["discriminator", "self_supervision"] = "discriminator"
    """Whose: the mean and the spread of every activation of the discriminator, or the self-supervised trunk's features
    in all four turns."""
    fitted_patches: Annotated[int, Field(ge=50)] = 4000
    """The most training patches that it is fitted on, a seeded choice."""


SystemName = Literal[
    "dense_skip_gan",
    "anogan",
    "egbad",
    "ganomaly",
    "skip_ganomaly",
    "dagan",
    "unet_autoencoder",
    "patch_svdd",
]


class LatentSearchSection(Section):
    """AnoGAN's search for the latent vector whose image is most like a patch, made whenever a patch is scored."""

    steps: Annotated[int, Field(ge=1)] = 500
    """The published number; the time of scoring is proportional to it."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Of Adam."""
    discrimination_weight: Fraction = 0.1
    """lambda: weight of the discrimination loss; the residual loss has the rest."""


class PatchSvddSection(Section):
    """Patch-SVDD's memory."""

    remembered: Annotated[int, Field(ge=1)] = 2000
    """Embeddings of each size of window that are kept of the training patches, a seeded choice."""


class ModelSection(Section):
    """The generator/discriminator pair of arXiv 2211.13808, or a system that it is compared with.

    Every system reads `base_width`, `max_width`, `discriminator_width` and `feature_channels` as far as it has such
    layers, and U-shaped ones `depth`. Skips, attention, spectral normalisation, pointing, the self-supervised trunk and
    `memory` belong to `dense_skip_gan` alone.
    """

    name: SystemName = "dense_skip_gan"
    base_width: Annotated[int, Field(ge=4)] = 16
    """Channels of the generator's first level; each level below has twice as many."""
    depth: Annotated[int, Field(ge=2, le=7)] = 4
    """Levels below full resolution; the patch size must be a multiple of 2**depth."""
    outer_rows_without_skips: Annotated[int, Field(ge=0)] = 0
    """How many of the outermost (highest-resolution) levels carry no skip block. The paper's is 0."""
    max_width: Annotated[int, Field(ge=4)] = 256
    """Bound on the channels of the deepest levels."""
    discriminator_width: Annotated[int, Field(ge=4)] = 32
    feature_channels: Annotated[int, Field(ge=4)] = 128
    """Channels of f(x), the discriminator's last convolution."""
    spectral_norm: bool = True
    attention: AttentionSection = AttentionSection()
    pointing: bool = False
    """True: the discriminator carries a per-pixel decoder that says where the anomaly is. Beyond the paper."""
    pointing_width: Annotated[int, Field(ge=4)] = 16
    """Channels of the pointing decoder at half resolution; each level below has twice as many, up to a bound."""
    pointing_max_width: Annotated[int, Field(ge=4)] | None = _added(None)
    """That bound; `null`: `max_width`. On a CPU wide levels at the bottom take two fifths of a step or more."""
    pointing_sees: Literal["patch", "patch_and_restoration"] = "patch_and_restoration"
    """What the decoder reads: the patch x alone, or x, the restored x^ and |x - x^|."""
    pointing_colour: Literal["sharp", "blurred"] = _added("sharp")
    """How the decoder sees colour. `blurred`: averaged over 5 x 5 px twice, beside the lightness of each pixel; for
    X-ray images, where the colour of a border's last pixels tells stamps from matter that was in the beam."""
    pointing_views: Literal[1, 2, 4, 8] = 1
    """Views of a patch over which scoring averages the decoder's logits: 1 as it is; 2 and its mirror image; 4 the
    quarter turns; 8 both. Training must show such views: `train.horizontal_flip`, `train.quarter_turns`."""
    self_supervision: SelfSupervisionSection = SelfSupervisionSection()
    memory: MemorySection = MemorySection()
    latent_channels: Annotated[int, Field(ge=1)] = _added(100)
    """Channels of the latent vector of AnoGAN, EGBAD, GANomaly, and of DAGAN's discriminator."""
    latent_search: LatentSearchSection = _added(LatentSearchSection())
    patch_svdd: PatchSvddSection = _added(PatchSvddSection())

    @model_validator(mode="after")
    def _beyond_the_paper_alone(self) -> ModelSection:
        on = {"pointing": self.pointing, "self_supervision.enabled": self.self_supervision.enabled}
        on["memory.enabled"] = self.memory.enabled
        wrong = [key for key, value in on.items() if value]
        if wrong and self.name != "dense_skip_gan":
            raise ValueError(
                f"{' and '.join(wrong)}: on, but the model is '{self.name}', and these belong to 'dense_skip_gan' "
                f"alone; switch them off"
            )
        return self

    @model_validator(mode="after")
    def _memory_has_features(self) -> ModelSection:
        if self.memory.enabled and self.memory.features == "self_supervision" and not self.self_supervision.enabled:
            raise ValueError(
                "memory.features is 'self_supervision', which is off; set self_supervision.enabled to true, or "
                "memory.features to 'discriminator'"
            )
        return self


class LossWeights(Section):
    """w1, w2, w3 of Eq. (5), arXiv 2211.13808; of a baseline, what it has of such terms (`training.systems`)."""

    adversarial: Annotated[float, Field(ge=0)] = 1.0
    contextual: Annotated[float, Field(ge=0)] = 40.0
    latent: Annotated[float, Field(ge=0)] = 1.0
    pointing: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the pointing loss beside the discriminator's own; used where `model.pointing` is on."""
    self_supervision: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the self-supervised loss beside it; used where `model.self_supervision` is on."""


class ShapeWeights(Section):
    """How often each shape of a pseudo-anomaly is drawn, relative to the others."""

    rods: Annotated[float, Field(ge=0)] = 0.5
    """One to five joined rods, some with rings or discs at the joints."""
    tools: Annotated[float, Field(ge=0)] = 0.0
    """Shafts with jaws, rings and bars, and pairs of crossed arms: what a hand could hold."""
    blobs: Annotated[float, Field(ge=0)] = 0.3
    """Wavy blobs, ellipses, boxes, polygons; some hollow."""
    cracks: Annotated[float, Field(ge=0)] = 0.1
    clouds: Annotated[float, Field(ge=0)] = 0.1
    """Where smooth noise is high."""

    @model_validator(mode="after")
    def _any(self) -> ShapeWeights:
        return _some_weight(self)


class PaintWeights(Section):
    """How often each paint of a pseudo-anomaly is drawn, relative to the others."""

    absorber: Annotated[float, Field(ge=0)] = 0.3
    """Matter in the beam, of a hue that stands out in another training patch, as metal in X-ray scans of bags."""
    colour: Annotated[float, Field(ge=0)] = 0.3
    """A colour of another training patch."""
    texture: Annotated[float, Field(ge=0)] = 0.2
    """A piece of another training patch."""
    shifted: Annotated[float, Field(ge=0)] = 0.1
    """What is there, lighter, darker or of another hue."""
    noisy: Annotated[float, Field(ge=0)] = 0.1
    """What is there, with smooth noise."""

    @model_validator(mode="after")
    def _any(self) -> PaintWeights:
        return _some_weight(self)


Weights = TypeVar("Weights", ShapeWeights, PaintWeights)


def _some_weight(weights: Weights) -> Weights:
    if not sum(weights.model_dump().values()) > 0:
        raise ValueError("every weight is 0, so nothing could be drawn; raise one of them")
    return weights


class PseudoAnomalySection(Section):
    """What is stamped into normal patches when the objective is `restore`. Beyond the paper."""

    clean_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the patches that are left as they are."""
    decoy_fraction: Fraction = 0.0
    """Share of the patches into whose beam normal matter of another patch is laid, unmarked; for X-ray images."""
    most_stamps: Annotated[int, Field(ge=1, le=16)] = 3
    """A corrupted patch gets one to this many stamps."""
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.05
    largest: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Extents are log-uniform between `smallest` and `largest` sides of the patch."""
    softest_px: Annotated[float, Field(ge=0.7, le=32)] = 8.0
    """Borders are between 0.7 and this many pixels wide."""
    least_opacity: Annotated[float, Field(gt=0, le=1)] = 0.35
    absorber_pixels: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (8, 64)
    """At least and at most how many pixels of another training patch are looked at for what stands out most by hue and
    darkness: an absorber is made of it. The more, the surer it is the rarest matter there; in scans of bags, metal."""
    on_structure: Fraction = 0.75
    """Share of the stamps that seek a busy place."""
    visible_difference: OpenFraction = 0.025
    """Least change, as a share of the value range, from which a pixel counts as anomalous."""
    shapes: ShapeWeights = ShapeWeights()
    paints: PaintWeights = PaintWeights()

    @model_validator(mode="after")
    def _sizes_in_order(self) -> PseudoAnomalySection:
        if self.smallest > self.largest:
            raise ValueError(f"smallest ({self.smallest}) is larger than largest ({self.largest}); swap them")
        if self.absorber_pixels[0] > self.absorber_pixels[1]:
            raise ValueError(f"absorber_pixels {list(self.absorber_pixels)}: the first is larger; swap them")
        return self


class Candidate(Section):
    """One pair to train; the best of all candidates on calibration data is kept."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    seed: int = 0
    overrides: dict[str, Any] = {}
    """Dotted keys of `model` and `train`, e.g. `{"train.learning_rate": 1e-3, "model.base_width": 32}`."""


class TeacherSection(Section):
    """A frozen network in whose features the generator's restoration is compared with the patch. Beyond the paper."""

    weights: str
    """Path of a .safetensors file with the state dict of torchvision's resnet18, which you must have accepted the terms
    of; nothing is downloaded. DVC does not watch it: after a change, `dvc repro --force train`. Its digest is kept with
    the pair."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the feature loss (0 to 2) beside Eq. (5)."""


class TrainSection(Section):
    """The training budget, optimiser and candidates."""

    epochs: Annotated[float, Field(gt=0)] = 3.0
    """Passes over the training patches (fractions allowed); the schedule counts images seen."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = _added(0.0)
    """Of all weights; every step takes away `weight_decay` times the learning rate of each (AdamW). Of SGD: added to
    the gradient, as an L2 penalty."""
    schedule: Literal["constant", "linear"] = "constant"
    """`linear`: the rate rises over the first 2 % of the budget and falls to a twentieth over its last 70 %."""
    weights: LossWeights = LossWeights()
    adversarial: Literal["log", "wasserstein_gp"] = _added("log")
    """`log`: Eq. (2) of the paper. `wasserstein_gp`: the Wasserstein loss with a gradient penalty in its place; of
    `dense_skip_gan` alone."""
    gradient_penalty: Annotated[float, Field(ge=0)] = _added(10.0)
    """Weight of the penalty; used where `adversarial` is `wasserstein_gp`."""
    teacher: TeacherSection | None = _added(None)
    """None: none, and nothing of it is recorded."""
    objective: Literal["reconstruct", "restore"] = "reconstruct"
    """`reconstruct`: the paper's, G copies normal patches. `restore`: G removes pseudo-anomalies (beyond the paper)."""
    pseudo_anomalies: PseudoAnomalySection = PseudoAnomalySection()
    generator_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the batches in which the generator plays; below 1, time goes to a pointing decoder that sees the patch
    alone, or to the self-supervised trunk."""
    horizontal_flip: bool = False
    quarter_turns: bool = False
    """Turns each training patch by 0 to 3 quarters, where the images have no fixed orientation."""
    photometric_share: Fraction = _added(0.0)
    """Share of the patches whose grain, sharpness and tone are changed at random, after stamping; used where the
    objective is `restore`."""
    photometric_range: Literal["narrow", "wide"] = _added("narrow")
    """`wide`: sharpness changes more, hues turn by up to 15 degrees and saturation changes, too; for sites whose
    displays differ."""
    precision: Literal["32-true", "bf16-mixed", "auto"] = "auto"
    """`auto`: bf16 where the device computes it in hardware, else 32-bit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Annotated[int, Field(ge=1)] = 1
    """Processes, one per GPU (or per CPU share); each takes its part of every batch."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = _added("auto")
    """Processes per device that make batches ahead of the training; 0: none does. `auto`: on a GPU, where the objective
    is `restore`, all cores but one between the devices; else 0. The weights do not depend on it."""
    log_every_images: Annotated[int, Field(ge=1)] = 1024
    checkpoint_every_images: Annotated[int, Field(ge=1)] = 8192
    candidates: tuple[Candidate, ...] = (Candidate(name="seed-0", seed=0),)

    @model_validator(mode="after")
    def _unique_names(self) -> TrainSection:
        names = [c.name for c in self.candidates]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"candidates need at least one entry and distinct names, got {names}")
        return self


class Parent(Section):
    """A registered version, pinned by what it is; `vigil train --from champion` writes it."""

    version: Annotated[int, Field(ge=1)]
    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of its bundle."""
    rehearsal: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the sample of old data that was kept with it."""


class StartSection(Section):
    """What training starts from, and what a version keeps for those that will start from it."""

    parent: Parent | None = None
    """None: from scratch. A version: its weights, and rehearsal of a sample of what it learned from."""
    rehearsal_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of each batch that is drawn from the parent's sample; the budget in images stays what it is."""
    keep_train_mib: Annotated[float, Field(gt=0)] = 16.0
    """Bound on the training patches that are kept with a version, as losslessly encoded."""
    keep_test_mib: Annotated[float, Field(gt=0)] = 32.0
    """Bound on the test images that are kept with a version, half of it for each label."""
    seed: int = 0
    """Of the samples; a chain of versions whose seed stays has uniform samples of all its data."""


class ScoreSection(Section):
    """How patches are scored."""

    batch_size: Annotated[int, Field(ge=1)] = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stamped_patches: Annotated[int, Field(ge=0)] = 0
    """So many normal calibration patches, a seeded choice, are also scored with pseudo-anomalies stamped in, for
    `calibrate.score: fitted` where calibration holds no anomalies; 0: none."""


class ReductionSection(Section):
    """How an image's score is made of its patch scores."""

    name: Literal["max", "top_k_mean"] = "max"
    k: Annotated[int, Field(ge=1)] = 3
    """Patches averaged by `top_k_mean`."""


class CalibrateSection(Section):
    """From components to a score, and from scores to a threshold. Sees calibration data only."""

    score: Literal["eq6", "map_peak", "stitched_peak", "self_supervision", "memory", "published", "fitted"] = "eq6"
    """`eq6`: A = eta A_G + (1 - eta) A_D, the paper's. `map_peak`: how anomalous the map is at its highest.
    `stitched_peak`: where it is highest on average over a small square, of what all overlapping patches of the image
    point at, averaged; needs `model.pointing`.
    `published`: a baseline's score as its own description defines it.
    `self_supervision`: how unsure the trunk is of the patch's turn. `memory`: how far the patch is from normal training
    patches. `fitted`: a weighted sum of standardised components; its weights are learned on the calibration anomalies
    or, where there are none, on `score.stamped_patches`."""
    components: (
        tuple[
            Literal["contextual", "latent", "map_peak", "stitched_peak", "self_supervision", "memory", "published"], ...
        ]
        | None
    ) = None
    """What `fitted` weighs; None: all that the pair has."""
    eta: Fraction | Literal["fit"] = 0.9
    """Weight of A_G in Eq. (6); `fit` chooses it by AUROC on calibration data, which must then hold anomalies."""
    reduction: ReductionSection = ReductionSection()
    target_recall: OpenFraction = 0.95
    """Used when calibration holds anomalies."""
    target_fpr: OpenFraction = 0.05
    """Used when calibration holds normal images only."""
    confidence: OpenFraction = 0.95
    """Of the Clopper-Pearson intervals."""


class EvaluateSection(Section):
    """What is measured on the test split."""

    protocol: Literal["strict", "paper"] = "strict"
    """`paper` adds a column with the paper's own test-set scaling (Eq. (7)); nothing else uses test extremes."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    confidence: OpenFraction = 0.95
    seed: int = 0
    heat_maps: Annotated[int, Field(ge=1, le=50)] = 6
    """Images shown in each group of the report (best, worst, missed)."""


class AuditSection(Section):
    """The leakage audit: how much is tried, and what counts as a shortcut in the data."""

    sample_images: Annotated[int, Field(ge=2)] = 24
    """Test images whose patches are scored again in other orders, batches and company; half of each label."""
    shortcut_auroc: Annotated[float, Field(ge=0.5, le=1.0)] = 0.75
    """A trivial feature is a finding where the lower end of its AUROC's interval lies above this."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 500
    confidence: OpenFraction = 0.95
    seed: int = 0


class RegisterSection(Section):
    """Where the pair is registered."""

    tracking_uri: str = "sqlite:///mlflow.db"
    experiment: str = "vigil"
    model_name: str = "vigil"


class PromoteSection(Section):
    """What a challenger must show to replace the champion."""

    min_auroc_gain: float = 0.0
    """The challenger's test AUROC must exceed the champion's by more than this."""
    max_recall_drop: Annotated[float, Field(ge=0)] = 0.02
    """The challenger's recall may be lower than the champion's by at most this."""
    max_fpr: Fraction = 1.0
    """The challenger's false-positive rate may be at most this."""


_WITHOUT_FEATURES = ("unet_autoencoder", "patch_svdd")
"""Systems that have no A_D of Eq. (6), or neither of its parts."""
_NEEDED_BY_VIEWS = {
    1: (),
    2: ("horizontal_flip",),
    4: ("quarter_turns",),
    8: ("horizontal_flip", "quarter_turns"),
}


class Params(Section):
    """The whole params file."""

    data: DataSection
    # `validate` and `register` are the stages' names; the attributes differ because pydantic owns those words.
    validation: ValidateSection = Field(default=ValidateSection(), alias="validate")
    split: SplitSection = SplitSection()
    patch: PatchSection = PatchSection()
    model: ModelSection = ModelSection()
    start: StartSection = StartSection()
    train: TrainSection = TrainSection()
    score: ScoreSection = ScoreSection()
    calibrate: CalibrateSection = CalibrateSection()
    evaluate: EvaluateSection = EvaluateSection()
    audit: AuditSection = AuditSection()
    registration: RegisterSection = Field(default=RegisterSection(), alias="register")
    promote: PromoteSection = PromoteSection()

    @model_validator(mode="after")
    def _cross_rules(self) -> Params:
        if self.patch.patch_size_px % 2**self.model.depth:
            raise ValueError(
                f"patch.patch_size_px ({self.patch.patch_size_px}) is not a multiple of 2**model.depth "
                f"({2**self.model.depth}); lower model.depth"
            )
        names = {candidate_sections(self.model, self.train, c)[0].name for c in self.train.candidates}
        if len(names) > 1:
            raise ValueError(
                f"the candidates are of the systems {sorted(names)}, whose scores and losses cannot be compared on "
                f"normal patches; run each system on its own"
            )
        for candidate in self.train.candidates:
            model, train = candidate_sections(self.model, self.train, candidate)
            if model.pointing and train.objective != "restore":
                raise ValueError(
                    f"candidate '{candidate.name}': model.pointing is on, but train.objective is '{train.objective}', "
                    f"so that there is nothing to point at; set train.objective to 'restore'"
                )
            for key in _NEEDED_BY_VIEWS[model.pointing_views]:
                if model.pointing and not getattr(train, key):
                    raise ValueError(
                        f"candidate '{candidate.name}': model.pointing_views is {model.pointing_views}, but "
                        f"train.{key} is off, so that the decoder never saw such views; set it to true"
                    )
            self._check_system(candidate.name, model, train)
            alone = model.pointing_sees == "patch" if model.pointing else model.self_supervision.enabled
            needed = {
                "self_supervision": ("model.self_supervision.enabled", model.self_supervision.enabled),
                "memory": ("model.memory.enabled", model.memory.enabled),
                "stitched_peak": ("model.pointing", model.pointing),
            }
            key, is_on = needed.get(self.calibrate.score, ("", True))
            if not is_on:
                raise ValueError(
                    f"candidate '{candidate.name}': calibrate.score is '{self.calibrate.score}', which needs {key}; "
                    f"switch it on or choose another score"
                )
            if train.generator_share < 1 and not alone:
                raise ValueError(
                    f"candidate '{candidate.name}': train.generator_share is {train.generator_share}, which needs "
                    f"model.pointing with model.pointing_sees 'patch', or model.self_supervision; set it to 1"
                )
        return self

    def _check_system(self, candidate: str, model: ModelSection, train: TrainSection) -> None:
        """What the paper's pair has and the baselines have not, and the other way round."""
        own = model.name == "dense_skip_gan"
        refused = {
            "train.objective": (train.objective, not own and train.objective == "restore", "'reconstruct'"),
            "train.adversarial": (train.adversarial, not own and train.adversarial != "log", "'log'"),
            "train.teacher": (train.teacher and train.teacher.weights, not own and train.teacher is not None, "null"),
            "calibrate.score": (
                self.calibrate.score,
                (own and self.calibrate.score == "published")
                or (model.name in _WITHOUT_FEATURES and self.calibrate.score == "eq6"),
                "'eq6'" if own else "'published'",
            ),
        }
        for key, (found, wrong, instead) in refused.items():
            if wrong:
                raise ValueError(
                    f"candidate '{candidate}': {key} is '{found}', which model.name '{model.name}' does not have; set "
                    f"it to {instead}"
                )


def candidate_sections(
    model: ModelSection, train: TrainSection, candidate: Candidate
) -> tuple[ModelSection, TrainSection]:
    """The model and train sections of one candidate.

    Raises:
        ConfigError: An override names no key of `model` or `train`, or has a value that the key refuses.
    """
    sections = {"model": _values(model), "train": _values(train)}
    del sections["train"]["candidates"]
    for dotted, value in candidate.overrides.items():
        head, *path = dotted.split(".")
        target: Any = sections.get(head)
        for key in path[:-1]:
            target = target.get(key) if isinstance(target, dict) else None
        if not path or not isinstance(target, dict) or path[-1] not in target:
            raise ConfigError(f"train.candidates.{candidate.name}.overrides: '{dotted}' is not a key of model or train")
        target[path[-1]] = value
    try:
        return ModelSection.model_validate(sections["model"]), TrainSection.model_validate(sections["train"])
    except ValidationError as error:
        raise ConfigError(explain(error, f"train.candidates.{candidate.name}.overrides")) from error


def _values(section: Section) -> dict[str, Any]:
    """Every key of a section and of those in it, also those that `model_dump` leaves out."""
    return {name: _values(value) if isinstance(value, Section) else value for name, value in section}


def with_values(patch: PatchSection, values: Mapping[str, Any]) -> PatchSection:
    """The patch section with some keys given on the command line.

    Raises:
        ConfigError: A value breaks a rule.
    """
    try:
        return PatchSection.model_validate({**patch.model_dump(), **values})
    except ValidationError as error:
        raise ConfigError(explain(error, "patch")) from error


_SHORT = reprlib.Repr()  # YAML aliases can make a few lines mean gigabytes
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200


def explain(error: ValidationError, where: str) -> str:
    """Every broken rule of a validation error on a line of its own: place, rule, value found."""
    lines = [f"{where}: {error.error_count()} rule(s) broken:"]
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        found = item.get("input")
        shown = "" if isinstance(found, dict) else f", found {_SHORT.repr(found)}"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {place}: unknown key{shown}; check the spelling against the comments in params.yaml")
        else:
            lines.append(f"  {place}: {item['msg']}{shown}")
    return "\n".join(lines)


def parse_params(values: Any, where: str = "params") -> Params:
    """The checked sections of an already parsed params file.

    Raises:
        ConfigError: A key is unknown or missing, or a value breaks a rule; all of them are listed.
    """
    try:
        return TypeAdapter(Params).validate_python(values)
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from error


def load_params(path: Path) -> Params:
    """Reads and checks a params file (YAML 1.2, or JSON).

    Raises:
        ConfigError: The file is missing, does not parse, or breaks a rule.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: params file not found. Run from the project folder, or pass --params.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    if path.suffix == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid JSON: {error}") from error
    else:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            values = YAML(typ="safe", pure=True).load(text)
        # Beside its own errors, a value that only looks like a date or a number, and a list as a key.
        except (YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
    return parse_params(values, str(path))
