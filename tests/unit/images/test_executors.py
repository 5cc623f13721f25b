"""Patches cut on a real Dask cluster: the same bytes as on one machine, also when a worker is killed halfway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.raw_set import RawSet
from vigil.config import PatchSection
from vigil.errors import ConfigError, DataError
from vigil.files import digest_folder
from vigil.images import executors

Client = pytest.importorskip("distributed", reason="needs vigil[cluster]").Client

IMAGES = 32
LOCAL = PatchSection(patch_size_px=64, stride_px=16, buckets=16, workers=1)


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s in vain"
        time.sleep(0.002)


class Cluster:
    """A scheduler and workers, each a process of its own with its own working folder, as on a real cluster."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        address = folder / "scheduler.json"
        self._start("dask_scheduler", "--scheduler-file", str(address), "--port", "0", "--no-dashboard")
        until(lambda: address.exists() and address.read_text().rstrip().endswith("}"))
        self.address: str = json.loads(address.read_text())["address"]

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--host", "127.0.0.1", *options]
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """A worker without a nanny: when it is killed, nobody starts it again."""
        return self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("cluster"), stack)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawSet:
    raw = RawSet(tmp_path_factory.mktemp("raw"))
    for number in range(IMAGES):
        raw.add(f"image-{number}.png", (160, 160))
    return raw


def test_a_scheduler_that_does_not_answer_leaves_what_was_there(
    raw: RawSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CONNECT_S", 0.5)
    coarse = LOCAL.model_copy(update={"stride_px": 64})
    raw.extract(tmp_path / "test", patch=coarse)
    before = digest_folder(tmp_path / "test")
    nobody = coarse.model_copy(update={"executor": "dask", "scheduler": "tcp://127.0.0.1:9"})
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        raw.extract(tmp_path / "test", patch=nobody)
    assert digest_folder(tmp_path / "test") == before


def test_a_cluster_without_workers_is_refused(
    raw: RawSet, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_WORKER_S", 0.5)
    alone = LOCAL.model_copy(update={"executor": "dask", "scheduler": cluster.address})
    with pytest.raises(ConfigError, match="has no worker; start some with `dask worker"):
        raw.extract(tmp_path / "test", patch=alone)


def test_a_killed_worker_changes_nothing_of_what_comes_out(raw: RawSet, cluster: Cluster, tmp_path: Path) -> None:
    on_cluster = LOCAL.model_copy(update={"executor": "dask", "scheduler": cluster.address})
    here, there = tmp_path / "here", tmp_path / "there"
    expected = raw.extract(here, patch=LOCAL)

    workers = [cluster.worker(), cluster.worker()]
    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    left: list[int] = []

    def kill() -> None:
        """Stops a worker in the middle of a bucket, makes sure that others are left, and kills it."""
        until(lambda: len(list(there.glob("bucket-*.json"))) > 1)
        os.kill(workers[0].pid, signal.SIGSTOP)
        left.append(expected.buckets_written - len(list(there.glob("bucket-*.json"))))
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    counts = raw.extract(there, patch=on_cluster)
    killer.join()
    assert left[0] > 0, "the run ended before the worker could be killed"
    assert workers[0].wait() == -signal.SIGKILL
    assert workers[1].poll() is None
    assert digest_folder(there) == digest_folder(here)
    assert sorted(p.name for p in there.iterdir()) == sorted(p.name for p in here.iterdir()), "leftovers of the killed"
    assert counts.patches == expected.patches
    assert counts.images_processed + counts.images_reused == IMAGES

    # A second run keeps everything, and what a worker refuses is said as on one machine.
    assert raw.extract(there, patch=on_cluster).buckets_kept == expected.buckets_written
    (raw.root / "image-7.png").unlink()
    raw.rows["image-7.png"]["sha256"] = "0" * 64
    with pytest.raises(DataError, match=r"image-7\.png: cannot be read"):
        raw.extract(there, patch=on_cluster)
