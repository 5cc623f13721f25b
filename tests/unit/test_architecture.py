"""The architecture as rules: imports flow one way, the core is alone, dvc.yaml tells the truth."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from vigil.cli import STAGES
from vigil.config import Params

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src" / "vigil"

LAYERS = {
    "errors": 0,
    "records": 0,
    "files": 0,
    "seeding": 0,
    "progress": 0,
    "config": 1,
    "images": 2,
    "networks": 3,
    "training": 4,
    "scoring": 4,
    "calibration": 5,
    "evaluation": 6,
    "delivery": 7,
    "serving": 8,
    "stages": 9,
    "benchmark": 10,
    "cli": 11,
    "__main__": 12,
}
CORE = {"torch", "lightning_fabric", "numpy", "PIL", "pyarrow", "pydantic", "safetensors", "sklearn"}
SURROUNDINGS = {"dvc", "mlflow", "prefect", "great_expectations"}
"""Packages that only the modules below may import."""
MAY_IMPORT = {
    "mlflow": ("delivery/mlflow_", "delivery/promotion", "delivery/vigil_pyfunc", "stages/"),
    "great_expectations": ("images/validation", "stages/"),
    "dvc": ("stages/",),
    "prefect": (),
}


RECORDED = ("start", "train", "report")
"""Stages that are told where MLflow is. It decides where they are recorded, or where what is pinned by digest comes
from, not what they make, so it is no param."""


def modules() -> list[Path]:
    found = sorted(SOURCE.rglob("*.py"))
    assert len(found) > 30
    return found


def imports(path: Path) -> set[str]:
    """Every module named in an import statement of the file, wherever it stands; type-checking imports too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "vigil")
    return names


def part_of(module: str) -> str | None:
    """The layer's name of `vigil.images.shards` is `images`; None for the bare package."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "vigil" and len(pieces) > 1 and pieces[1] in LAYERS else None


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_point_to_lower_layers(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        other = part_of(name)
        if other is None or other == own:
            continue
        siblings = {own, other} == {"training", "scoring"}
        assert not siblings, f"{path.name} imports {name}: training and scoring are siblings"
        assert LAYERS[other] <= LAYERS[own], f"{path.name} (layer {own}) imports {name} (a higher layer)"


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_the_four_surroundings_are_imported_only_where_they_are_owned(path: Path) -> None:
    relative = path.relative_to(SOURCE).as_posix()
    for package in {name.split(".")[0] for name in imports(path)} & SURROUNDINGS:
        assert relative.startswith(MAY_IMPORT[package]), f"{relative} imports {package}"


def test_the_released_protocol_is_out_of_reach_of_every_stage() -> None:
    """It scores with batch statistics, which give labels away; a benchmark measures what that is worth, nobody else."""
    stages = [path for path in modules() if path.relative_to(SOURCE).parts[0] in {"stages", "serving", "delivery"}]
    reached, todo = set[Path](), [*stages, SOURCE / "cli.py"]
    while todo:
        path = todo.pop()
        if path in reached or path.relative_to(SOURCE).parts[0] == "benchmark":
            continue
        reached.add(path)
        for name in imports(path):
            if name.split(".")[0] == "vigil":
                base = SOURCE.joinpath(*name.split(".")[1:])
                todo += [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    assert SOURCE / "scoring" / "scorer.py" in reached
    assert SOURCE / "scoring" / "released.py" not in reached


def test_the_core_imports_with_nothing_but_its_own_packages() -> None:
    """Imports every core module in a process where all other installed packages are hidden."""
    core = [
        ".".join(("vigil", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for p in modules()
        if p.relative_to(SOURCE).parts[0] in {"images", "networks", "training", "scoring", "calibration", "evaluation"}
        and p.name != "validation.py"
    ]
    hidden = [
        "dvc",
        "mlflow",
        "prefect",
        "great_expectations",
        "pandas",
        "matplotlib",
        "jinja2",
        "ruamel",
        "defusedxml",
        "requests",
        "distributed",
        "dask",
        "simplejpeg",
    ]
    code = f"""
import importlib, sys
from importlib.machinery import ModuleSpec
class Hide:
    # torch asks for specs of packages that it never imports, so only the import itself fails.
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.split(".")[0] in {hidden!r} else None
    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Hide())
for name in {core!r}:
    importlib.import_module(name)
print(len({core!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(core) > 20


def pipeline() -> dict[str, dict[str, object]]:
    stages: dict[str, dict[str, object]] = YAML(typ="safe", pure=True).load((PROJECT / "dvc.yaml").read_text())[
        "stages"
    ]
    return stages


def test_cli_and_dvc_name_the_same_stages() -> None:
    assert tuple(pipeline()) == STAGES


@pytest.mark.parametrize("name", STAGES)
def test_declared_params_are_the_sections_that_the_stage_receives(name: str) -> None:
    declared = pipeline()[name].get("params", [])
    received = list(inspect.signature(importlib.import_module(f"vigil.stages.{name}").run).parameters)
    if name in RECORDED:
        received.remove("register")
    assert sorted(declared) == sorted(received)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", STAGES)
def test_declared_code_covers_everything_that_the_stage_imports(name: str) -> None:
    """Walks the imports from the stage's module; each file must lie at or below a declared dependency."""
    declared = [PROJECT / str(d) for d in pipeline()[name]["deps"] if str(d).startswith("src/")]  # type: ignore[attr-defined]
    seen: set[Path] = set()
    todo = [SOURCE / "stages" / f"{name}.py"]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in imports(path):
            if module.split(".")[0] != "vigil":
                continue
            base = SOURCE.joinpath(*module.split(".")[1:])
            todo += [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    needed = {p for p in seen if p != SOURCE / "__init__.py"}
    missing = {p.relative_to(PROJECT).as_posix() for p in needed if not any(d == p or d in p.parents for d in declared)}
    assert not missing, f"dvc.yaml: stage {name} does not declare {missing}"


def test_every_section_of_params_has_a_reader() -> None:
    read = {section for stage in pipeline().values() for section in stage.get("params", [])}  # type: ignore[attr-defined]
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert sections - read == {"promote"}, "promote is read by `vigil promote`, every other section by a stage"


def test_help_is_quick_because_it_imports_no_heavy_package() -> None:
    code = "import sys, vigil.cli; vigil.cli._build_parser(); print([m for m in sys.modules if m in {heavy}])"
    heavy = repr({"torch", "numpy", "mlflow", "dvc", "prefect", "great_expectations", "pyarrow", "sklearn", "pydantic"})
    done = subprocess.run([sys.executable, "-c", code.format(heavy=heavy)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
