"""Register, promote, refuse and roll back on a real SQLite MLflow registry."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.mlflow_warnings import MLFLOW_WARNINGS
from tests.tiny_bundle import encoded, grey_image, write_tiny_bundle
from vigil.config import CalibrateSection, PromoteSection, RegisterSection
from vigil.delivery import promotion
from vigil.delivery.bundle import AuditSummary, Estimate, load_bundle
from vigil.delivery.mlflow_registry import (
    CHALLENGER,
    CHAMPION,
    RegisteredVersion,
    champion,
    fetch_bundle,
    fetch_bundle_of_run,
    load_champion_bundle,
    register,
)
from vigil.delivery.mlflow_tracking import import_mlflow, open_store, training_run
from vigil.delivery.promotion import history, promote, rollback
from vigil.delivery.verdict import judge_encoded
from vigil.errors import BundleMismatch, ConfigError, PromotionRefused, RegistryError
from vigil.serving.recalibration import recalibrate, write_recalibrated

pytestmark = [pytest.mark.pipeline, *MLFLOW_WARNINGS]


def registered(section: RegisterSection, folder: Path, **bundle: Any) -> RegisteredVersion:
    write_tiny_bundle(folder, **bundle)
    return register(folder, section)


def aliases(section: RegisterSection) -> dict[str, int]:
    found = open_store(section).get_registered_model(section.model_name).aliases
    return {name: int(number) for name, number in found.items()}


RULES = PromoteSection()


def test_promote_refuse_and_roll_back(section: RegisterSection, tmp_path: Path) -> None:
    """The life of a registry, in order, with the history that it leaves."""
    registered(section, tmp_path / "one", seed=1, auroc=0.80)
    first = promote(section, RULES, who="ann", why="the first")
    assert (first.version, first.previous, first.moved) == (1, None, True)

    worse = registered(section, tmp_path / "two", seed=2, auroc=0.70, recall=0.5)
    assert worse.version.number == 2
    assert worse.champion_before is not None
    assert worse.champion_before.number == 1
    with pytest.raises(PromotionRefused) as refused:
        promote(section, RULES, who="bob", why="hope")
    assert type(refused.value) is PromotionRefused  # its name is what the command line shows
    assert refused.value.exit_code == 2
    assert "AUROC 0.7000 does not exceed champion v1's 0.8000" in str(refused.value)
    assert "recall 0.5000 is 0.4000 below" in str(refused.value)
    assert aliases(section) == {CHAMPION: 1, CHALLENGER: 2}

    registered(section, tmp_path / "three", seed=3, auroc=0.85)
    better = promote(section, RULES, who="ann", why="better")
    assert (better.version, better.previous) == (3, 1)
    assert better.event is not None
    assert better.event.champion is not None
    assert (better.event.challenger.auroc, better.event.champion.auroc) == (0.85, 0.80)

    again = promote(section, RULES, who="ann", why="again")
    assert (again.moved, again.event) == (False, None)

    back = rollback(section, who="cy", why="false alarms at gate 4")
    assert (back.version, back.previous) == (1, 3)
    assert aliases(section)[CHAMPION] == 1
    with pytest.raises(RegistryError, match="v1 is the first champion of 'vigil'"):
        rollback(section, who="cy", why="further")

    told = [(e.event, e.from_version, e.to_version, e.who, e.why) for e in history(section)]
    assert told == [
        ("promoted", None, 1, "ann", "the first"),
        ("refused", 1, 2, "bob", "hope"),
        ("promoted", 1, 3, "ann", "better"),
        ("rolled_back", 3, 1, "cy", "false alarms at gate 4"),
    ]
    assert [len(e.reasons) for e in history(section)] == [0, 2, 0, 0]
    assert all(e.when.endswith("+00:00") for e in history(section))


def test_an_equal_bundle_is_registered_once(section: RegisterSection, tmp_path: Path) -> None:
    first = registered(section, tmp_path / "here")
    again = registered(section, tmp_path / "there" / "bundle")
    assert (first.created, again.created) == (True, False)
    assert first.version == again.version
    assert first.as_json() == again.as_json()
    other = registered(section, tmp_path / "other", seed=1)
    assert (other.created, other.version.number) == (True, 2)
    returned = register(tmp_path / "here", section)
    assert (returned.created, returned.version.number) == (False, 1)
    assert aliases(section) == {CHALLENGER: 1}


def test_the_version_belongs_to_the_run_that_trained_its_pair(section: RegisterSection, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    with training_run(section, tmp_path / "work", {"train": {"epochs": 1}}, {"train": "abc"}) as run:
        run.log_pair(tmp_path / "bundle-pair")
    (tmp_path / "report.html").write_text("<p>")
    found = register(tmp_path / "bundle", section, files=[tmp_path / "report.html", tmp_path / "absent"])
    assert found.version.run_id == run.run_id
    stored = open_store(section).get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert (stored.data.metrics["auroc"], stored.data.metrics["fpr"]) == (0.8, 0.1)
    assert [f.path for f in open_store(section).list_artifacts(run.run_id, "reports")] == ["reports/report.html"]


def test_a_champion_calibrated_on_another_display_is_promoted_with_a_reason(
    section: RegisterSection, tmp_path: Path
) -> None:
    """It has a run of its own, keeps the sample to rehearse, and can be rolled back."""
    write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "old.txt").write_text("kept")
    first = register(tmp_path / "bundle", section, rehearsal=tmp_path / "sample").version
    promote(section, RULES, who="ann", why="the first")
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(encoded(grey_image(index)))
    champions = load_bundle(load_champion_bundle(section, tmp_path / "kept"))
    images = sorted(tmp_path.glob("*.png"))
    found = recalibrate(champions, images[:30], images[30:], CalibrateSection(), device="cpu")
    write_recalibrated(tmp_path / "new", champions, found)
    second = register(tmp_path / "new", section).version
    assert second.recalibrated_from == first.bundle_digest
    assert second.rehearsal_digest == first.rehearsal_digest is not None
    assert second.run_id != first.run_id
    assert open_store(section).get_run(second.run_id).data.metrics == {"threshold": found.calibration.threshold}

    with pytest.raises(PromotionRefused, match="calibrated on images of its own"):
        promote(section, RULES, who="ann", why="the display was replaced")
    promote(section, RULES, who="ann", why="the display was replaced", accept=True)
    assert load_bundle(load_champion_bundle(section, tmp_path / "kept")).calibration == found.calibration
    assert rollback(section, who="ann", why="the old one is back").version == first.number


def test_the_champions_bundle_is_kept_and_mended(section: RegisterSection, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"holds no champion of 'vigil'\. Run `vigil promote`"):
        load_champion_bundle(section)
    assert champion(section) is None
    one = registered(section, tmp_path / "one")
    promote(section, RULES, who="ann", why="")
    folder = load_champion_bundle(section, tmp_path / "kept")
    assert load_bundle(folder).record.digest == one.version.bundle_digest
    (folder / "calibration.json").write_text("{}")
    assert load_bundle(load_champion_bundle(section, tmp_path / "kept")).record.digest == one.version.bundle_digest


def test_different_test_images_are_refused_unless_accepted_with_a_reason(
    section: RegisterSection, tmp_path: Path
) -> None:
    registered(section, tmp_path / "one")
    promote(section, RULES, who="ann", why="")
    registered(section, tmp_path / "two", seed=1, auroc=0.99, test_digest="u" * 64)
    with pytest.raises(PromotionRefused, match="different test images"):
        promote(section, RULES, who="ann", why="")
    with pytest.raises(ConfigError, match="needs a reason"):
        promote(section, RULES, who="ann", why=" ", accept=True)
    result = promote(section, RULES, who="ann", why="new scanner, new test images", accept=True)
    assert (result.version, result.moved) == (2, True)
    assert "overruled" in result.describe()
    assert [e.event for e in history(section)] == ["promoted", "refused", "promoted"]


def test_a_leak_is_never_promoted_and_a_shortcut_only_by_name_with_a_reason(
    section: RegisterSection, tmp_path: Path
) -> None:
    leaking = AuditSummary(leaks=("score_order",), findings={}, digest="a" * 64)
    registered(section, tmp_path / "one", audit=leaking)
    with pytest.raises(PromotionRefused, match="LEAK: score_order"):
        promote(section, RULES, who="ann", why="I want it", accept=True)

    found = {name: Estimate(value=0.9, low=0.85, high=0.95) for name in ("brightness", "image_area")}
    registered(section, tmp_path / "two", seed=1, audit=AuditSummary(leaks=(), findings=found, digest="b" * 64))
    with pytest.raises(PromotionRefused, match="--accept-finding image_area"):
        promote(section, RULES, who="ann", why="all of them", accept=True, accept_findings=["brightness"])
    both = ["brightness", "image_area", "brightness"]
    with pytest.raises(ConfigError, match="say why"):
        promote(section, RULES, who="ann", why=" ", accept_findings=both)
    result = promote(section, RULES, who="ann", why="one scanner only", accept_findings=both)
    assert "accepted finding: brightness" in result.describe()
    assert [(e.event, e.accepted_findings) for e in history(section)] == [
        ("refused", ()),
        ("refused", ("brightness",)),
        ("promoted", ("brightness", "image_area")),
    ]
    assert history(section)[-1].why == "one scanner only"


def test_the_bundle_of_a_run_is_found_by_the_runs_id(section: RegisterSection, tmp_path: Path) -> None:
    version = registered(section, tmp_path / "one").version
    folder = fetch_bundle_of_run(section, version.run_id, tmp_path / "kept")
    assert load_bundle(folder).record.digest == version.bundle_digest
    with pytest.raises(RegistryError, match="belongs to run 'nobody'"):
        fetch_bundle_of_run(section, "nobody", tmp_path / "kept")


def test_a_damaged_version_is_never_promoted_even_if_accepted(section: RegisterSection, tmp_path: Path) -> None:
    registered(section, tmp_path / "one")
    (weights,) = (tmp_path / "mlruns").rglob("pair/generator.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleMismatch, match=r"generator\.safetensors: changed"):
        promote(section, RULES, who="ann", why="trust me", accept=True)
    assert CHAMPION not in aliases(section)
    assert [(e.event, "changed" in e.reasons[0]) for e in history(section)] == [("refused", True)]


def test_a_version_that_does_not_load_is_never_promoted(section: RegisterSection, tmp_path: Path) -> None:
    """A pyfunc whose load_context has a wrongly named parameter is logged and registered without a complaint."""
    registered(section, tmp_path / "one")
    (code,) = (tmp_path / "mlruns").rglob("artifacts/vigil_pyfunc.py")
    code.write_text(code.read_text().replace("context: Any) -> None", "ctx: Any) -> None"))
    search_path = sys.path.copy()
    with pytest.raises(PromotionRefused, match="vigil v1 does not load and score a fixed batch"):
        promote(section, RULES, who="ann", why="")
    assert sys.path == search_path
    assert CHAMPION not in aliases(section)


def test_two_promoters_do_not_interleave(
    section: RegisterSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(section, tmp_path / "one")
    prove = promotion.prove

    def while_another_promotes(*arguments: Any) -> None:
        with pytest.raises(RegistryError, match="another promotion of 'vigil' is under way"):
            promote(section, RULES, who="bob", why="at the same time")
        # On another host, where the lock is not seen:
        open_store(section).set_registered_model_alias(section.model_name, CHAMPION, "1")
        prove(*arguments)

    monkeypatch.setattr(promotion, "prove", while_another_promotes)
    with pytest.raises(RegistryError, match="changed while v1 was checked"):
        promote(section, RULES, who="ann", why="")
    assert [(e.event, e.who) for e in history(section)] == [("refused", "ann")]


def test_tampered_numbers_are_noticed(section: RegisterSection, tmp_path: Path) -> None:
    registered(section, tmp_path / "one")
    client = open_store(section)
    tag = json.loads(client.get_model_version("vigil", "1").tags["vigil.evaluation"])
    tag["auroc"]["value"] = 0.999
    client.set_model_version_tag("vigil", "1", "vigil.evaluation", json.dumps(tag))
    with pytest.raises(BundleMismatch, match="not those of its bundle"):
        promote(section, RULES, who="ann", why="")


def test_an_empty_registry_says_what_to_do(section: RegisterSection) -> None:
    assert history(section) == []
    with pytest.raises(RegistryError, match=r"holds no challenger of 'vigil'\. Run `dvc repro`"):
        promote(section, RULES, who="ann", why="")
    with pytest.raises(RegistryError, match="there is no champion"):
        rollback(section, who="ann", why="")


SERVED = """
import base64, json, sys
from vigil_only_from_the_model import check
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/vigil@challenger")
import vigil
assert "/code/" in vigil.__file__, vigil.__file__
images = [open(p, "rb").read() for p in sys.argv[2:]]
print(model.predict(pd.DataFrame({"image": images})).to_json(orient="records", double_precision=15))
"""


def test_a_fresh_process_without_vigil_loads_the_version(section: RegisterSection, tmp_path: Path) -> None:
    registered(section, tmp_path / "one")
    paths = []
    for index in range(2):
        paths.append(tmp_path / f"{index}.png")
        grey_image(index).save(paths[-1])
    paths.append(tmp_path / "bad.png")
    paths[-1].write_bytes(b"bad")
    # The installed package is hidden until the model brings its own copy along.
    hide = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('/src')]\n"
        "try:\n    import vigil\nexcept ModuleNotFoundError:\n    check = True\n"
        "else:\n    raise SystemExit('vigil is importable, so this process proves nothing')\n"
    )
    (tmp_path / "vigil_only_from_the_model.py").write_text(hide)
    (tmp_path / "served.py").write_text(SERVED)
    command = [sys.executable, str(tmp_path / "served.py"), section.tracking_uri, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    direct = list(judge_encoded(load_bundle(tmp_path / "one"), [path.read_bytes() for path in paths]))
    assert [row["verdict"] for row in rows] == [j.verdict for j in direct]
    assert [row["score"] for row in rows[:2]] == pytest.approx([j.score for j in direct[:2]], abs=1e-6)
    assert (rows[2]["score"], rows[2]["verdict"]) == (None, "REJECTED")
    assert "not an image" in rows[2]["reason"]


# The test client's own advice on another HTTP library; the server under test has no part in it.
@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient` is deprecated")
def test_the_model_server_takes_base64_and_answers_with_verdicts(section: RegisterSection, tmp_path: Path) -> None:
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    registered(section, tmp_path / "one")
    model = import_mlflow().pyfunc.load_model("models:/vigil@challenger")
    content = encoded(grey_image(0))
    with TestClient(scoring_server.init(model)) as client:
        body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(content).decode()], ["AAAA"]]}}
        answer = client.post("/invocations", json=body)
        wrong = client.post("/invocations", json={"dataframe_split": {"columns": ["x"], "data": [["AAAA"]]}})
    (good, bad) = answer.json()["predictions"]
    (direct,) = judge_encoded(load_bundle(tmp_path / "one"), [content], device="auto")
    assert good["score"] == pytest.approx(direct.score, abs=1e-6)
    assert (bad["verdict"], bad["score"]) == ("REJECTED", None)
    assert wrong.status_code == 400


def test_the_registry_holds_no_pickle_and_the_package_travels(section: RegisterSection, tmp_path: Path) -> None:
    registered(section, tmp_path / "one")
    names = [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "mlruns").rglob("*") if p.is_file()]
    assert any(name.endswith("code/vigil/delivery/verdict.py") for name in names)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".pyc"))]
    version = promotion.version_with(open_store(section), "vigil", CHALLENGER)
    assert version is not None
    assert load_bundle(fetch_bundle(section, version, tmp_path / "kept")).record.digest == version.bundle_digest
