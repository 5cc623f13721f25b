"""A bundle serves where none of the surrounding systems is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_bundle import grey_image, write_tiny_bundle
from vigil.delivery.bundle import load_bundle
from vigil.serving.screening import screen

pytestmark = pytest.mark.pipeline

HIDDEN = (
    "mlflow", "dvc", "prefect", "great_expectations", "ruamel", "matplotlib", "pandas", "jinja2", "defusedxml",
    "psutil",
)  # fmt: skip

ALONE = """
import importlib, json, sys
from pathlib import Path

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"hidden: {{name}}", name=name)

sys.meta_path.insert(0, Hide())
for name in {hidden!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} is importable, so this process proves nothing")

from vigil.delivery.bundle import load_bundle
from vigil.serving.screening import screen

bundle = load_bundle(Path({bundle!r}))
for result in screen(bundle, [Path({images!r})], device="cpu", heat_map_folder=Path({out!r})):
    print(json.dumps(result.as_json(), sort_keys=True))
"""


def test_a_fresh_process_without_the_surroundings_opens_the_bundle_and_screens(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        grey_image(index).save(images / f"{index}.png")
    (images / "3.jpg").write_bytes(b"\xff\xd8 not much of a JPEG")
    out = tmp_path / "out"

    code = ALONE.format(hidden=HIDDEN, bundle=str(tmp_path / "bundle"), images=str(images), out=str(out))
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = [json.loads(line) for line in done.stdout.splitlines()]

    here = list(screen(load_bundle(tmp_path / "bundle"), [images], device="cpu"))
    assert [r["verdict"] == "REJECTED" for r in alone] == [False, False, False, True]
    assert [(r["path"], r["verdict"]) for r in alone] == [(str(r.path), r.verdict) for r in here]
    # Another process may run with another number of threads, which can move the last bits of a score.
    assert [r["score"] for r in alone[:3]] == pytest.approx([r.score for r in here[:3]], abs=1e-6)
    assert len(list(out.iterdir())) == 3
