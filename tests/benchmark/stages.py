"""What a stage costs for a set of some size: peak memory, processor seconds and time, in a process of its own.

`python -m tests.benchmark.stages STAGE ROOT` runs one stage in the working folder on the raw set at ROOT and prints its
cost as JSON; `cost_of` does that for the caller.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
_SAMPLED_S = 0.05
_READ_PATCHES = 20_000
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run of a stage."""

    peak_mib: float
    """Highest resident memory of the process."""
    worker_mib: float
    """And of the largest of its worker processes; 0 where it has none."""
    cpu_s: float
    """Processor seconds, of workers too."""
    wall_s: float


def cost_of(stage: str, project: Path, root: Path) -> Cost:
    """Runs a stage in the folder `project` on the raw set at `root`."""
    command = [sys.executable, "-m", "tests.benchmark.stages", stage, str(root)]
    paths = [str(REPOSITORY), str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{stage} in {project}: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _stages(root: Path) -> dict[str, Callable[[], Any]]:
    """The stages with the settings of SIXray's preset, but for the stride: 4 patches per image of 256 x 256."""
    from vigil.config import SixrayData, load_params

    params = load_params(REPOSITORY / "presets" / "sixray.yaml")
    data = SixrayData(name="sixray", root=str(root))
    patch = params.patch.model_copy(update={"stride_px": params.patch.patch_size_px})

    def manifest() -> None:
        from vigil.stages.manifest import run

        run(data)

    def validate() -> None:
        from vigil.stages.validate import run

        run(data, params.validation)

    def split() -> None:
        from vigil.stages.split import run

        run(params.split)

    def cut() -> None:
        from vigil.stages.patch import run

        run(data, patch)

    def index() -> None:
        from vigil.images.validation import validate_patch_index
        from vigil.stages import layout

        validate_patch_index(layout.PATCHES, patch, layout.PATCH_VALIDATION_REPORT, layout.SPLITS)

    return {"manifest": manifest, "validate": validate, "split": split, "patch": cut, "index": index, "read": _read}


def _read() -> None:
    """What training does with the data: opens and digests the shards, and reads shuffled batches as tensors."""
    from vigil.images.dataset import to_tensor
    from vigil.images.shards import PatchShards
    from vigil.stages import layout
    from vigil.training.rehearsal import Sources

    shards = PatchShards.open(layout.PATCHES["train"])
    assert shards.digest
    sources = Sources(shards, None, _BATCH, seed=0)
    for seen in range(0, _READ_PATCHES, _BATCH):
        to_tensor(sources.read(sources.batch(seen)))


class _Workers(threading.Thread):
    """Looks at the worker processes now and then, and keeps the highest peak of one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib = 0.0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(_SAMPLED_S):
            peaks = [_peak_mib(process.pid) for process in multiprocessing.active_children()]
            self.peak_mib = max([self.peak_mib, *peaks])

    def stop(self) -> None:
        """Ends the thread."""
        self._end.set()
        self.join()


def _peak_mib(pid: int | None) -> float:
    """The highest resident memory of a process since it began its program; `ru_maxrss` would count its parent's too."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid or 'self'}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    """Runs the stage that the command line names."""
    stage, root = sys.argv[1:]
    run = _stages(Path(root))[stage]
    workers = _Workers()
    workers.start()
    start = time.perf_counter()
    run()
    wall_s = time.perf_counter() - start
    workers.stop()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in used)
    sys.stdout.write(json.dumps(asdict(Cost(_peak_mib(None), workers.peak_mib, cpu_s, wall_s))) + "\n")


if __name__ == "__main__":
    main()
