"""A small copy of this project in a temporary folder, with its own git and DVC repository, run as users run it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vigil.files import digest_file, files_below

ROOT = Path(__file__).parents[2]
RESULTS = ("data", "models", "reports")

DIGITS_PARAMS = """\
data:
  name: digits
  root: data/raw/digits
  protocol: one_class_anomalous
  held_class: "0"
validate:
  min_normal_images: 50
split:
  official: false
  calibration_anomaly_fraction: 0.3
  max_train_images: 220
  max_calibration_images: 60
  max_test_images: 60
patch:
  channels: 1
  shorter_side_px: 32
  patch_size_px: 32
  stride_px: 32
  buckets: 6
  workers: 1
model:
  base_width: 4
  depth: 3
  max_width: 16
  discriminator_width: 4
  feature_channels: 8
  attention: {heads: 2, key_channels: 4, value_channels: 4}
start: {}
train:
  epochs: 1
  batch_size: 20
  precision: 32-true
  device: cpu
  log_every_images: 40
  checkpoint_every_images: 40
  candidates:
    - {name: a, seed: 0}
    - {name: b, seed: 1}
score: {}
calibrate: {}
register: {}
audit:
  sample_images: 8
  bootstrap_samples: 100
evaluate:
  bootstrap_samples: 100
  heat_maps: 2
"""


def environment() -> dict[str, str]:
    """The environment of a user's shell with the virtual environment active."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "default",
    }


def make_project(folder: Path, params: str = DIGITS_PARAMS) -> Path:
    """Copies what git tracks of the pipeline into `folder`, with other params, as a fresh git and DVC repository."""
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignore)
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data" / "reference.json", folder / "data")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copy(ROOT / ".dvc" / ".gitignore", folder / ".dvc" / ".gitignore")
    (folder / "params.yaml").write_text(params)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "git", "config", "user.name", "Test")
    run(folder, "git", "config", "user.email", "test@example.org")
    commit(folder, "start")
    return folder


def digests(project: Path) -> dict[str, str]:
    """The digest of every artefact below data, models and reports; git keeps the data reference, which is none."""
    return {
        path.relative_to(project).as_posix(): digest_file(path)
        for top in RESULTS
        for path in files_below(project / top)
        if path.name not in (".gitignore", "reference.json")
    }


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def run(folder: Path, *command: str, code: int = 0) -> str:
    """Runs a command in `folder` and returns its whole output; fails the test on another exit code."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def kill_when(folder: Path, command: list[str], condition: Callable[[], bool], limit_s: float = 120) -> None:
    """Starts a command in its own process group and sends SIGKILL to the whole group as soon as `condition` holds."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + limit_s
    try:
        while not condition():
            assert process.poll() is None, f"{' '.join(command)} ended before it could be killed"
            assert time.monotonic() < deadline, f"{' '.join(command)}: the condition for the kill never held"
            time.sleep(0.005)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
