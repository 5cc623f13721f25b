"""The pipeline's stages, one thin module each: read files, call the core, write files.

A stage module has one function `run`. Its parameters are named after the sections of params.yaml that it may read and
it gets nothing else, so `dvc.yaml` can be held against its signature. Paths are relative to the project folder and
stand in `layout.py`.
"""
