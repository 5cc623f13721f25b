"""Where the jobs of a stage run: in processes of this machine, or on a Dask cluster. Same function, same results."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from vigil.config import PatchSection
from vigil.errors import ConfigError, DataError

Job = TypeVar("Job")
Result = TypeVar("Result")
_CONNECT_S = 10.0
_WORKER_S = 60.0  # a cluster may still be starting
_JOBS_PER_THREAD = 2


def executed(function: Callable[[Job], Result], jobs: Iterable[Job], patch: PatchSection) -> Iterator[Result]:
    """`function` of all jobs, in the order in which they end; few jobs at a time are in memory.

    Args:
        function: Of a module, so that another process finds it; running it twice does no harm.
        jobs: Are made when a worker can take one.
        patch: Says where: `executor`, `workers`, `scheduler`.

    Raises:
        ConfigError: Dask is not installed, or its scheduler does not answer.
        DataError: Workers were lost; also whatever `function` raises.
    """
    if patch.executor == "dask":
        assert patch.scheduler is not None, "checked with the params"
        return _on_cluster(function, jobs, patch.scheduler)
    return map(function, jobs) if patch.workers == 1 else _in_processes(function, jobs, patch.workers)


def _in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    pending: set[Future[Result]] = set()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        for job in jobs:
            pending.add(pool.submit(function, job))
            if len(pending) > workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process of the patch stage ended without a result (killed, or out of memory). Finished buckets "
            "are kept: run again, with fewer patch.workers if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, so that a killed run leaves no process that goes on writing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(function: Callable[[Job], Result], jobs: Iterable[Job], scheduler: str) -> Iterator[Result]:
    """On the workers of a running cluster, which see the same files under the same paths.

    A job of a worker that is lost goes to another one; whatever it had written aside is replaced. When this process
    ends, however it ends, the scheduler drops its jobs.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise ConfigError(
            "patch.executor is 'dask', but Dask is not installed; `pip install 'vigil[cluster]'`, or set it to "
            "'processes'"
        ) from error
    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"patch.scheduler: no Dask scheduler answers at '{scheduler}' ({error}); start one with `dask scheduler`, "
            f"and workers with `dask worker {scheduler}`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKER_S)
        except TimeoutError as error:
            raise ConfigError(
                f"patch.scheduler: the scheduler at '{scheduler}' has no worker; start some with `dask worker "
                f"{scheduler}`"
            ) from error
        todo = iter(jobs)
        threads = sum(client.nthreads().values())  # type: ignore[no-untyped-call]
        # Not pure: the same job must run again when files were changed by hand in between.
        first = [client.submit(function, job, pure=False) for job in islice(todo, _JOBS_PER_THREAD * threads)]
        pending = as_completed(first, loop=client.loop)  # type: ignore[no-untyped-call]
        del first  # or the results of these jobs would never be let go
        try:
            for future in pending:
                yield future.result()
                future.release()
                for job in islice(todo, 1):
                    pending.add(client.submit(function, job, pure=False))  # type: ignore[no-untyped-call]
        except KilledWorker as error:
            raise DataError(
                f"workers of the cluster at {scheduler} ended again and again on one bucket (killed, or out of "
                f"memory). Finished buckets are kept: run again, with more memory per worker"
            ) from error
