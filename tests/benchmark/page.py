"""The pages that benchmarks leave in `docs/benchmarks/`, named after what, processor and date."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch

import vigil

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"


def processor() -> str:
    """Of this machine."""
    return platform.processor() or platform.machine()


def machine() -> str:
    """Processor and versions, for the first line of a page."""
    return (
        f"{processor()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}, NumPy {np.__version__}, Pillow {PIL.__version__}"
    )


def written(name: str, title: str, lines: Sequence[str]) -> None:
    """Writes `<name>_<processor>_<date>.md`, and the same to the standard output."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = "\n".join([f"# {title}: vigil {vigil.__version__}, {today}", "", *lines]) + "\n"
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}_{processor().replace(' ', '-')}_{today}.md"
    path.write_text(text)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    sys.stdout.write(f"{text}\nWritten to {shown}\n")
