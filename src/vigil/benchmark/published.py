"""Numbers that others published, as they stand in their tables; shown beside what is measured here, never mixed in.

All of arXiv 2211.13808. Its table 1 names Skip-GANomaly (arXiv 1901.08954) as the source of the other systems' rows,
its table 2 DAGAN and Patch-SVDD.
"""

from __future__ import annotations

from types import MappingProxyType

PAPER = "arXiv 2211.13808"

_CIFAR10_CLASSES = ("bird", "automobile", "cat", "deer", "dog", "frog", "horse", "airplane", "ship", "truck")
_CIFAR10 = {
    "anogan": (0.411, 0.492, 0.399, 0.335, 0.393, 0.321, 0.399, 0.516, 0.567, 0.511),
    "egbad": (0.383, 0.514, 0.448, 0.374, 0.481, 0.353, 0.526, 0.577, 0.413, 0.555),
    "ganomaly": (0.510, 0.631, 0.587, 0.593, 0.628, 0.683, 0.605, 0.633, 0.616, 0.617),
    "skip_ganomaly": (0.448, 0.953, 0.607, 0.602, 0.615, 0.931, 0.788, 0.797, 0.659, 0.907),
    "dense_skip_gan": (0.982, 0.998, 0.981, 0.999, 0.989, 1.000, 0.992, 1.000, 1.000, 0.974),
}
"""Table 1, AUC. The text does not say which class is the anomaly; the source of the other rows holds one class out."""

_MVTEC_SYSTEMS = ("anogan", "ganomaly", "skip_ganomaly", "dagan", "unet_autoencoder", "patch_svdd", "dense_skip_gan")
_MVTEC = {
    "bottle": (0.800, 0.794, 0.937, 0.983, 0.863, 0.986, 0.987),
    "cable": (0.477, 0.711, 0.674, 0.665, 0.636, 0.903, 0.918),
    "capsule": (0.422, 0.721, 0.718, 0.687, 0.673, 0.767, 0.998),
    "carpet": (0.337, 0.821, 0.795, 0.903, 0.774, 0.929, 0.938),
    "grid": (0.871, 0.743, 0.657, 0.867, 0.857, 0.946, 0.943),
    "hazelnut": (0.259, 0.874, 0.906, 1.0, 0.996, 0.920, 0.999),
    "leather": (0.451, 0.808, 0.908, 0.844, 0.870, 0.909, 0.935),
    "metal_nut": (0.284, 0.694, 0.79, 0.815, 0.676, 0.940, 0.825),
    "pill": (0.711, 0.671, 0.758, 0.768, 0.781, 0.861, 0.91),
    "screw": (0.10, 1.0, 1.0, 1.0, 1.0, 0.813, 1.0),
    "tile": (0.401, 0.72, 0.85, 0.961, 0.964, 0.978, 0.985),
    "toothbrush": (0.439, 0.700, 0.689, 0.950, 0.811, 1.0, 0.979),
    "transistor": (0.692, 0.808, 0.814, 0.794, 0.674, 0.915, 0.89),
    "wood": (0.567, 0.920, 0.919, 0.979, 0.958, 0.965, 0.981),
    "zipper": (0.715, 0.744, 0.663, 0.781, 0.750, 0.979, 0.890),
    "average": (0.502, 0.782, 0.805, 0.866, 0.819, 0.921, 0.945),
}
"""Table 2, AUC; the paper's own row is measured on patches, defects cut out with their masks."""

_SIXRAY = {
    "A": {"ganomaly": (0.794, 0.51), "skip_ganomaly": (0.937, 0.68), "dense_skip_gan": (0.983, 0.79)},
    "B": {"ganomaly": (0.800, 0.58), "skip_ganomaly": (0.954, 0.70), "dense_skip_gan": (0.998, 0.76)},
    "C": {"ganomaly": (0.998, 0.53), "skip_ganomaly": (0.998, 0.66), "dense_skip_gan": (0.999, 0.75)},
}
"""Table 3, AUC and recall; on patches, threats cut out with their boxes, at a threshold that is not stated."""

_THREATS = {"gun": 0.834, "knife": 0.931, "pliers": 0.886, "scissors": 0.933, "wrench": 0.556}
"""Section 4, recall of the pair trained on set A."""

CONVERGED_EPOCHS = MappingProxyType(
    {"dense_skip_gan": "about 20", "ganomaly": "more than 35", "skip_ganomaly": "more than 35"}
)
"""Section 4; "other methods" are those of table 3."""

ABLATIONS = MappingProxyType(
    {
        "without_attention": "AUC -.021, recall -.01 (at most, set A)",
        "without_spectral_norm": "AUC -.008, recall -.08 (at most, set A)",
        "wasserstein": "no significant difference",
    }
)
"""Section 3: what attention and spectral normalisation added, turned round, and the note on Wasserstein GANs."""

REMEASURED = (
    "Independent measurements of this family on MVTec AD, image level, mean of 15 categories: GANomaly .593 ± .009 "
    "(BaoIAD; with the best epoch chosen on the test set) and .421 (anomalib's own model page); Skip-GANomaly .602 "
    "(ablation of OCR-GAN). The table of the paper gives .782 and .805 for patches."
)


def auc(data: str, name: str, system: str) -> float | None:
    """The published AUC of a system on a class, category or set; None where the paper gives none."""
    if data == "cifar10" and system in _CIFAR10 and name in _CIFAR10_CLASSES:
        return _CIFAR10[system][_CIFAR10_CLASSES.index(name)]
    if data == "mvtec" and name in _MVTEC and system in _MVTEC_SYSTEMS:
        return _MVTEC[name][_MVTEC_SYSTEMS.index(system)]
    if data == "sixray" and system in _SIXRAY.get(name, {}):
        return _SIXRAY[name][system][0]
    return None


def recall(data: str, name: str, system: str) -> float | None:
    """The published recall of a system on a set of SIXray; None where the paper gives none."""
    return _SIXRAY[name][system][1] if data == "sixray" and system in _SIXRAY.get(name, {}) else None


def threat_recall(data: str, kind: str, system: str) -> float | None:
    """The published recall of the paper's pair on one kind of threat of SIXray; None where the paper gives none."""
    return _THREATS.get(kind) if (data, system) == ("sixray", "dense_skip_gan") else None
