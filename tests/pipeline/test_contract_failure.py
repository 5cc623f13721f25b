"""A broken contract under the real `dvc`: the pipeline stops, and what was good before stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.project import DIGITS_PARAMS, make_project, run
from vigil.files import digest_file, digest_folder

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]

DIGITS = 'name: digits\n  root: data/raw/digits\n  protocol: one_class_anomalous\n  held_class: "0"\n'


def test_a_broken_image_stops_the_pipeline_and_destroys_nothing(tmp_path: Path) -> None:
    params = DIGITS_PARAMS.replace(DIGITS, "name: folder\n  root: data/raw/mine\n").replace("50", "5", 1)
    project = make_project(tmp_path / "project", params)
    for number in range(8):
        path = tmp_path / "source" / ("normal" if number < 6 else "anomalous/dent") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)).save(path)
    run(project, "vigil", "data", "import", "folder", "--from", str(tmp_path / "source"), "--root", "data/raw/mine")
    run(project, "dvc", "repro", "validate")
    accepted, report = project / "data/accepted.parquet", project / "reports/validation"
    good = digest_file(accepted), digest_folder(report)

    broken = project / "data/raw/mine/normal/9.png"
    broken.write_bytes((project / "data/raw/mine/normal/0.png").read_bytes()[:200])
    output = run(project, "dvc", "repro", "validate", code=255)
    assert "FAILED every image decodes completely (1 of 9, first normal/9.png)" in output
    assert "normal/9.png: the image is truncated" in output
    assert (digest_file(accepted), digest_folder(report)) == good
    assert "normal/9.png" in (project / "reports/validation-failed/failures.csv").read_text()

    broken.unlink()
    run(project, "dvc", "repro", "validate")
    assert (digest_file(accepted), digest_folder(report)) == good
