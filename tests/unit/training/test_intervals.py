"""Rows of the training record: means over the steps that measured something."""

from dataclasses import fields

import pytest
import torch

from vigil.training.checkpoint import RunState
from vigil.training.intervals import Clock, add_step, finish_interval
from vigil.training.steps import OF_THE_GAME, StepLosses


def finished(state, *steps):
    for step in steps:
        add_step(state, step)
    state.images_seen += 4 * len(steps)
    return finish_interval(state, Clock(0), 100, torch.device("cpu"))


def test_a_row_holds_the_means_of_its_interval():
    state = RunState()
    first = finished(state, StepLosses(contextual_loss=0.2, pointing_loss=3), StepLosses(contextual_loss=0.4))
    second = finished(state, StepLosses(contextual_loss=0.1))
    assert (first.contextual_loss, first.pointing_loss) == pytest.approx((0.3, 1.5))
    assert (second.contextual_loss, second.pointing_loss) == pytest.approx((0.1, 0.0))
    assert state.rows == [first, second]


def test_steps_without_the_generator_do_not_dilute_its_losses():
    state = RunState()
    silent = StepLosses(pointing_loss=1.0, left_out=OF_THE_GAME)
    row = finished(state, StepLosses(contextual_loss=0.3, generator_loss=12, pointing_loss=4), silent, silent)
    assert (row.contextual_loss, row.generator_loss) == pytest.approx((0.3, 12.0))
    assert row.pointing_loss == pytest.approx(2.0)
    # An interval in which the generator never played repeats what is known of it.
    row = finished(state, silent)
    assert (row.contextual_loss, row.pointing_loss) == pytest.approx((0.3, 1.0))


def test_what_a_step_may_leave_out_are_names_of_its_fields():
    assert {field.name for field in fields(StepLosses)} > OF_THE_GAME
