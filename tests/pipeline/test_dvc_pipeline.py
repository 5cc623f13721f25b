"""The real pipeline through the real `dvc`: rebuild, rebuild nothing, experiments, push and pull."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.pipeline.project import RESULTS, commit, digests, environment, run
from vigil.cli import STAGES
from vigil.records import ANOMALOUS, NORMAL, SPLIT_TABLE

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]


def test_repro_ends_with_a_registered_version_and_a_report(built: Path) -> None:
    evaluation = json.loads((built / "reports/evaluation.json").read_text())
    for figure in ("auroc", "recall", "fpr"):
        assert evaluation[figure]["low"] <= evaluation[figure]["value"] <= evaluation[figure]["high"]
    assert evaluation["trivial_baselines"]
    assert json.loads((built / "models/registered.json").read_text())["version"] == 1
    report = (built / "reports/index.html").read_text()
    assert "<svg" in report
    assert "data:image/png;base64," in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_second_repro_runs_nothing_and_leaves_git_clean(built: Path) -> None:
    before = digests(built)
    output = run(built, "dvc", "repro")
    assert "Running stage" not in output
    assert "Data and pipelines are up to date." in output
    assert run(built, "git", "status", "--porcelain") == ""
    assert digests(built) == before


def test_summary_says_what_came_out(built: Path) -> None:
    summary = json.loads(run(built, "vigil", "summary", "--json"))
    assert summary["version"] == 1
    text = run(built, "vigil", "summary")
    assert "AUROC" in text
    assert "reports/index.html" in text


def test_leakage_audit_passes_and_finds_a_threshold_that_was_set_by_hand(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    audit = json.loads(run(project, "sh", "-c", "vigil audit leakage --json --bundle models/bundle 2>/dev/null"))
    assert audit["leaks"] == []
    assert audit["checks"].pop("dvc_lock")["status"] == "passed"
    assert audit == json.loads((built / "reports/audit.json").read_text())

    path = project / "models/calibration.json"
    path.unlink()  # a link to DVC's cache
    calibration = json.loads((built / "models/calibration.json").read_text())
    path.write_text(json.dumps({**calibration, "threshold": calibration["threshold"] * 1.5}))
    output = run(project, "vigil", "audit", "leakage", code=1)
    assert "LEAK     calibration_result" in output
    assert "LeakFound: 2 of 15 checks found a leak: calibration_result, evaluation" in output


def test_calibrated_anew_on_the_same_images_the_bundle_has_the_pipelines_threshold(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    splits = SPLIT_TABLE.read(project / "data/splits.parquet", ["image_id", "split", "label"]).to_pylist()
    files: dict[int, list[str]] = {NORMAL: [], ANOMALOUS: []}
    (tmp_path / "images").mkdir()
    with tarfile.open(project / "data/raw/digits/digits.tar") as archive:
        for row in splits:
            if row["split"] == "calibration":
                file = archive.extractfile(row["image_id"].removeprefix("digits.tar::"))
                assert file is not None
                path = tmp_path / "images" / f"{len(files[NORMAL])}-{len(files[ANOMALOUS])}.png"
                path.write_bytes(file.read())
                files[row["label"]].append(str(path))
    asked = ["vigil", "calibrate", "--bundle", "models/bundle", "--out", "new"]
    run(project, *asked, "--normal", *files[NORMAL], "--anomalous", *files[ANOMALOUS])
    expected, found = (
        json.loads((project / folder / "calibration.json").read_text()) for folder in ("models/bundle", "new")
    )
    for name in ("threshold", "scale_min", "scale_max"):  # batches of another size round otherwise
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-5)
    assert found.pop("inputs_digest") != expected.pop("inputs_digest")
    assert found == expected
    looks = [(project / folder / "appearance.json").read_text() for folder in ("models/bundle", "new")]
    assert looks[0] == looks[1]
    assert "calibrated on images of its own" in run(project, "vigil", "audit", "leakage", "--bundle", "new", code=4)


def test_display_audit_judges_the_test_images_as_they_are_and_otherwise(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    found = json.loads(run(project, "sh", "-c", "vigil audit displays --images 5 --json 2>/dev/null"))
    assert found == json.loads((project / "reports/displays.json").read_text())
    assert [row["display"] for row in found["rows"]][:2] == ["as they are", "darker"]
    assert "AUROC" in run(project, "vigil", "audit", "displays", "--images", "5")
    assert run(project, "git", "status", "--porcelain") == ""


def test_stage_reads_nothing_but_its_declared_inputs(built: Path, tmp_path: Path) -> None:
    """Each stage runs in a folder that holds its declared dependencies alone, and makes the same bytes."""
    from ruamel.yaml import YAML

    stages = YAML(typ="safe", pure=True).load((built / "dvc.yaml").read_text())["stages"]
    expected = digests(built)
    compared = 0
    for name in STAGES:
        room = tmp_path / name
        room.mkdir()
        shutil.copy(built / "params.yaml", room / "params.yaml")
        declared = [str(d).replace("${data.root}", "data/raw/digits") for d in stages[name]["deps"]]
        for path in [d for d in declared if d.startswith(RESULTS)]:
            (room / path).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (built / path).is_dir() else shutil.copy
            copy(built / path, room / path)
        inputs = digests(room)
        if name == "report":  # hands a copy of the page to the registry, which is no file of the pipeline
            run(room, "vigil", "stage", "register")
        run(room, "vigil", "stage", name)
        for path, digest in digests(room).items():
            if path in inputs:
                assert digest == inputs[path], f"stage {name} changed its input {path}"
            else:
                assert digest == expected[path], f"stage {name} made another {path} from its declared inputs alone"
                compared += 1
    assert compared == len(expected)


def test_metrics_plots_and_experiments_work(built: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    output = run(project, "dvc", "exp", "run", "--set-param", "train.epochs=0.5", "--name", "half")
    assert "Running stage 'train'" in output
    assert "Running stage 'patch'" not in output
    difference = json.loads(run(project, "dvc", "metrics", "diff", "--json", "HEAD"))
    assert any("auroc" in key for figures in difference.values() for key in figures)
    assert "half" in run(project, "dvc", "exp", "show", "--csv")
    plots = run(project, "dvc", "plots", "diff", "HEAD", "--out", "plots")
    assert (project / "plots" / "index.html").is_file(), plots


def test_training_goes_on_from_the_champion(built: Path, tmp_path: Path) -> None:
    """What it starts from is a param, so DVC rebuilds what depends on it, and nothing the next time."""
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    run(project, "vigil", "promote", "--why", "the first")
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("max_train_images: 220", "max_train_images: 200"))
    output = run(project, "vigil", "train", "--from", "champion")
    assert "Trained from v1; AUROC beside it" in output
    assert "parent:\n    version: 1\n" in (project / "params.yaml").read_text()
    assert json.loads((project / "models/pair/pair.json").read_text())["content"]["record"]["start"]["version"] == 1
    assert "Running stage" not in run(project, "dvc", "repro")


def test_second_clone_pulls_and_runs_nothing(built: Path, tmp_path: Path) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    project = tmp_path / "project"
    shutil.copytree(built, project, symlinks=True)
    run(project, "dvc", "remote", "add", "--default", "store", str(remote))
    commit(project, "remote")
    run(project, "dvc", "push")
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull")
    output = run(clone, "dvc", "repro")
    assert "Running stage" not in output
    assert digests(clone) == digests(built)


def test_environment_finds_this_python() -> None:
    assert shutil.which("vigil", path=environment()["PATH"])
