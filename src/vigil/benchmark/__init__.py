"""The paper's experiments: every system of its tables on one budget, cell by cell, through the pipeline's own stages.

A cell is one system on one task with one seed. `plan` says which cells an experiment has, `running` makes them, and
`tables`, `figures` and `what_holds` render what was measured. Nothing here is read by a stage.
"""
