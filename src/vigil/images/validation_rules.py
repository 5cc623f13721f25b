"""Rules and how Great Expectations holds them against a table, one part of the table after the other."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vigil.errors import VigilError

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation and what to say where it is broken."""

    name: str
    expectation: str
    """Class name in `great_expectations.expectations`."""
    arguments: dict[str, Any]
    reason: Callable[[Row], str]
    """For an expectation on rows: what is wrong with a row. For one on the whole table (`of_rows` False): what is
    missing and what to do; gets `{"observed": value}`."""
    of_rows: bool = True


@dataclass(slots=True)
class Outcome:
    """What became of a rule in all parts that were checked so far."""

    rule: Rule
    checked: int = 0
    """Rows that were looked at."""
    failed: int = 0
    passed: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of `failures.csv`."""

    expectation: str
    item: str
    file: str
    reason: str


@dataclass
class Contract:
    """Rules on the rows of one table, which is given part by part (or on a whole table, given once)."""

    rules: Sequence[Rule]
    item: str
    """The column that names a row."""
    file_of: Callable[[Row], str]
    outcomes: list[Outcome] = field(init=False)

    def __post_init__(self) -> None:
        self.outcomes = [Outcome(rule) for rule in self.rules]

    def check(self, frame: pd.DataFrame) -> tuple[list[Failure], list[int]]:
        """The failures in this part, in the order of its rows, and the positions of the rows that break a rule."""
        by_row: dict[int, list[int]] = {}
        failures = []
        for number, result in enumerate(self._results(frame)):
            outcome, rule = self.outcomes[number], self.rules[number]
            rows = [int(row) for row in result.result.get("unexpected_index_list") or ()]
            outcome.checked += len(frame)
            outcome.failed += len(rows)
            outcome.passed &= bool(result.success)
            for row in rows:
                by_row.setdefault(row, []).append(number)
            if not result.success and not rule.of_rows:
                observed = result.result.get("observed_value")
                value = float(observed) if isinstance(observed, int | float | np.number) else 0.0
                failures.append(Failure(rule.name, "", "", rule.reason({"observed": value})))
        for row in sorted(by_row):
            values = {str(name): value for name, value in frame.iloc[row].items()}
            item, file = str(values[self.item]), self.file_of(values)
            failures += [Failure(self.rules[n].name, item, file, self.rules[n].reason(values)) for n in by_row[row]]
        return failures, sorted(by_row)

    @cached_property
    def _batches(self) -> tuple[Any, Any]:
        """The batch definition and the suite, in an in-memory context that writes and sends nothing."""
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        from great_expectations import expectations
        from great_expectations.data_context.types.base import ProgressBarsConfig

        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # says where it is
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
        suite = gx.ExpectationSuite("contract")
        for number, rule in enumerate(self.rules):
            kind = getattr(expectations, rule.expectation)
            suite.add_expectation(kind(**rule.arguments, meta={"rule": number}))
        return asset.add_batch_definition_whole_dataframe("all"), suite

    def _results(self, frame: pd.DataFrame) -> list[Any]:
        """One result per rule."""
        with warnings.catch_warnings():
            # Its import meets deprecations of Python, pandas and marshmallow that are not ours to mend.
            warnings.simplefilter("ignore")
            definition, suite = self._batches
            results = definition.get_batch({"dataframe": frame}).validate(suite, result_format="COMPLETE").results
        found = {result.expectation_config.meta["rule"]: result for result in results}
        for number, rule in enumerate(self.rules):
            result = found[number]
            if result.exception_info.get("raised_exception") or (not result.success and not result.result):
                raise VigilError(f"Great Expectations could not evaluate '{rule.name}': {result.exception_info}")
        return [found[number] for number in range(len(self.rules))]
