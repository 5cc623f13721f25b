"""Judges many images with a bundle, and says how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from vigil.delivery.bundle import Bundle
from vigil.delivery.verdict import Judgement, Pixels, judge
from vigil.progress import Progress

_AT_A_TIME = 32
"""Images between two reports of progress."""


def judged_with_progress(
    bundle: Bundle,
    images: Iterable[Pixels | Judgement],
    task: str,
    count: int,
    *,
    device: str = "auto",
    batch_size: int = 64,
) -> Iterator[Judgement]:
    """One judgement per image, in order, as `judge` gives them; progress and an ETA after every 32.

    Args:
        bundle, images, device, batch_size: As `judge`.
        task: What the progress is called.
        count: Of the images.
    """
    waiting, progress = iter(images), Progress(task, count, "images")
    while some := list(islice(waiting, _AT_A_TIME)):
        yield from judge(bundle, some, device=device, batch_size=batch_size)
        progress.advance(len(some))
    progress.close()
