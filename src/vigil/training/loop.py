"""The training of one candidate: batch, discriminator, generator, count, record, save, stop.

Legend: B batch, C channels, P patch size. Progress is counted in images seen, so that a changed batch size does not
change what a budget means.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, multiprocessing
from torch.multiprocessing.spawn import ProcessRaisedException

from vigil.config import TrainSection
from vigil.errors import ConfigError, TrainingDiverged, VigilError
from vigil.images.dataset import to_tensor
from vigil.images.shards import PatchShards
from vigil.networks.pair import Pair, PairSpec, build_pair, load_pair
from vigil.networks.teacher import read_teacher
from vigil.progress import Progress
from vigil.seeding import numpy_generator
from vigil.training.batches import BatchMaker, HostBatch, batches_in_order
from vigil.training.checkpoint import RunState, load_checkpoint, load_result, remove_leftovers, save_checkpoint
from vigil.training.intervals import Clock, Reporter, add_step, finish_interval
from vigil.training.plan import Plan, make_plan
from vigil.training.recorder import Recorder, StepRecord
from vigil.training.rehearsal import Sources, WarmStart
from vigil.training.self_supervision import training_views
from vigil.training.steps import Batch, Corruption, Players, Teaching, Views, make_players, set_learning_rate
from vigil.training.systems import training_step

Report = Callable[[StepRecord], None]


def train_candidate(
    spec: PairSpec,
    train: TrainSection,
    seed: int,
    patches: PatchShards,
    work: Path,
    recorder: Recorder,
    warm: WarmStart | None = None,
) -> Pair:
    """A trained pair in evaluation mode on the CPU; a function of all arguments but `work` and `recorder` on a CPU.

    A run that was stopped at any moment goes on from its last checkpoint and ends with the weights of an uninterrupted
    one, bit for bit on a CPU. A run that is finished is read back. Checkpoints lie in a folder of `work` that is named
    by the digest of all settings and of the data, so that another run never meets them.

    Args:
        spec: Of the pair.
        train: Settings; candidates are left aside.
        seed: Of weights, batch order and flips.
        patches: Normal patches.
        work: Folder for checkpoints.
        recorder: Gets every interval of the run in order, those of earlier processes first.
        warm: A pair to go on from with new optimisers, and old patches to rehearse; None from scratch.

    Raises:
        ConfigError: Settings that do not fit each other, the patches, this machine, or the pair to go on from.
        CheckpointError: The checkpoint is damaged or of another run, or the teacher's weights are damaged or of another
            network.
        TrainingDiverged: A loss or a gradient norm is not finite.
    """
    plan = make_plan(spec, train, seed, patches, work, warm)
    plan.folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(plan.folder)
    pair = build_pair(spec, seed)
    if pair.normalises_batches and train.batch_size // train.devices < 2:
        raise ConfigError(
            f"model.name '{spec.model.name}' normalises batches, which needs two patches a process, and "
            f"train.batch_size {train.batch_size} on train.devices {train.devices} gives it "
            f"{train.batch_size // train.devices}; raise the batch size"
        )
    done = load_result(plan.folder, plan.run, pair) or RunState()
    for row in done.rows:
        recorder.record(row)
    if done.images_seen < plan.total_images:
        _launch(plan, patches, Reporter(plan, recorder, done.rows))
        load_result(plan.folder, plan.run, pair)
    return pair.eval()


def _train(fabric: Fabric, plan: Plan, patches: PatchShards, report: Report) -> None:
    """The loop, in each process; ends with a checkpoint at `plan.total_images`."""
    train = plan.train
    players = _players_on(fabric.device, plan)
    state = load_checkpoint(plan.folder, plan.run, players) or RunState()
    sources = Sources(patches, plan.warm, train.batch_size, plan.seed)
    maker = BatchMaker(sources, train, plan.seed, fabric.global_rank, fabric.world_size)
    made = batches_in_order(maker, state.images_seen, plan.total_images, plan.workers)
    clock = Clock(state.images_seen)
    progress = Progress("train", plan.total_images, "images", state.images_seen) if _shows_progress(fabric) else None

    for host_batch in made:
        # Batch: a function of the seed and the images seen; each process takes its share.
        batch = _on_device(host_batch, plan, state.images_seen, fabric)
        set_learning_rate(players, train, state.images_seen / plan.total_images)

        # Every player once; each checks that its numbers are finite before it moves.
        try:
            losses = training_step(fabric, players, batch)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"after {state.images_seen} of {plan.total_images} images: {error}") from error

        # Count and record.
        before = state.images_seen
        state.images_seen += train.batch_size
        add_step(state, losses)
        last = state.images_seen >= plan.total_images
        if last or _crossed(before, state.images_seen, train.log_every_images):
            row = finish_interval(state, clock, plan.total_images, fabric.device)
            if fabric.global_rank == 0:
                report(row)
        if progress:
            other = losses.discriminator_loss + losses.pointing_loss + losses.self_supervised_loss
            progress.advance(train.batch_size, f"D {other:.3f}, G {losses.generator_loss:.3f}")

        # Save.
        if last or _crossed(before, state.images_seen, train.checkpoint_every_images):
            if fabric.global_rank == 0:
                save_checkpoint(plan.folder, plan.run, players, state)
            fabric.barrier()
    if progress:
        progress.close()


def _players_on(device: torch.device, plan: Plan) -> Players[Pair]:
    """The pair that the run starts from on `device`, channels last, with new optimisers."""
    started = build_pair(plan.spec, plan.seed) if plan.warm is None else load_pair(plan.warm.pair)[0]
    pair = started.to(device).train()
    for network in pair.networks().values():
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    players = make_players(pair, plan.train)
    if plan.train.teacher is not None:
        teacher, _ = read_teacher(Path(plan.train.teacher.weights), plan.run["teacher"])
        teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        players.teaching = Teaching(teacher, plan.train.teacher.weight)
    return players


def _on_device(made: HostBatch, plan: Plan, images_seen: int, fabric: Fabric) -> Batch:
    """The batch [B / devices, C, P, P] in [-1, 1] on the device, channels last, with what else the pair learns from."""

    def moved(pixels: Tensor) -> Tensor:
        return to_tensor(pixels.numpy(), fabric.device).contiguous(memory_format=torch.channels_last)

    x = moved(made.pixels)
    corruption = None
    if made.corrupted is not None and made.anomalous is not None:
        corruption = Corruption(moved(made.corrupted), made.anomalous.to(fabric.device))
    views = _views(x, plan, images_seen, fabric)
    return Batch(x, corruption, views, plan.seed, images_seen, fabric.global_rank)


def _views(x: Tensor, plan: Plan, images_seen: int, fabric: Fabric) -> Views | None:
    """The views of this process's share of the batch; None where the pair has no self-supervised trunk."""
    if not plan.spec.model.self_supervision.enabled:
        return None
    return training_views(x, numpy_generator(plan.seed, "views", images_seen, fabric.global_rank))


def _crossed(before: int, now: int, every: int) -> bool:
    return now // every > before // every


def _shows_progress(fabric: Fabric) -> bool:
    return fabric.global_rank == 0 and sys.stderr.isatty()


# ---------------------------------------------------------------------------------------------------------- processes


def _launch(plan: Plan, patches: PatchShards, reporter: Reporter) -> None:
    """Runs the loop in this process, or in `train.devices` processes that report to this one."""
    several = plan.train.devices > 1
    fabric = Fabric(
        accelerator=plan.accelerator,
        devices=plan.train.devices,
        strategy="ddp_spawn" if several else "auto",
        precision=plan.precision,
    )
    if several:
        _launch_processes(fabric, plan, patches, reporter)
    else:
        fabric.launch(partial(_train, plan=plan, patches=patches, report=reporter))


def _launch_processes(fabric: Fabric, plan: Plan, patches: PatchShards, reporter: Reporter) -> None:
    """One spawned process per device; rows and Vigil's own errors come back through a queue.

    Gradients are averaged by `steps`, not by a wrapper around the networks: two players that take turns, one of them
    standing still, break the assumptions of such wrappers.
    """
    queue = multiprocessing.get_context("spawn").Queue()
    errors: list[VigilError] = []

    def forward() -> None:
        while (item := queue.get()) is not None:
            if isinstance(item, VigilError):
                errors.append(item)
            else:
                reporter(item)

    listener = threading.Thread(target=forward, daemon=True)
    listener.start()
    try:
        fabric.launch(partial(_train_reporting, plan=plan, patches=patches, queue=queue))
    except ProcessRaisedException as error:
        _close(queue, listener)
        if errors:
            raise errors[0] from error
        raise
    _close(queue, listener)


def _close(queue: Any, listener: threading.Thread) -> None:
    queue.put(None)
    listener.join()


def _train_reporting(fabric: Fabric, plan: Plan, patches: PatchShards, queue: Any) -> None:
    """`_train` in a spawned process."""
    try:
        _train(fabric, plan, patches, queue.put)
    except VigilError as error:
        queue.put(error)
        queue.close()
        queue.join_thread()  # the message must be out before the launcher ends this process
        raise
