"""The command line. Parses, calls one function, prints; every heavy import waits until its command runs."""

from __future__ import annotations

import argparse
import getpass
import importlib
import inspect
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vigil import __version__
from vigil.errors import ConfigError, DataError, LeakFound, VigilError

if TYPE_CHECKING:
    from vigil.config import Params
    from vigil.delivery.bundle import Bundle
    from vigil.images.importing import ImportSummary

STAGES = (
    "raw",
    "manifest",
    "validate",
    "split",
    "patch",
    "start",
    "train",
    "score",
    "calibrate",
    "evaluate",
    "audit",
    "bundle",
    "register",
    "report",
)
BENCHMARKS = (
    *("table1", "table2", "table3", "ablations", "threats", "figures"),
    *("beyond-scans", "beyond-parts", "beyond-small"),
)
_SECTION_ATTRIBUTES = {"validate": "validation", "register": "registration"}


class _Parser(argparse.ArgumentParser):
    """Ends with ConfigError's exit code on a wrong option, since 2 means that a promotion was refused."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ConfigError.exit_code, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (see `vigil.errors`)."""
    parser = _build_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(message)s" if not options.verbose else "%(asctime)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("mlflow", "alembic", "great_expectations", "matplotlib", "PIL", "lightning_fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return int(options.run(options) or 0)
    except VigilError as error:
        _say(f"{type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("Interrupted. Finished parts are kept; run the same command again to go on.")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vigil", description="Learns what normal images look like and flags what does not belong.")
    parser.add_argument("--version", action="version", version=f"vigil {__version__}")
    parser.add_argument("--verbose", action="store_true", help="also show debug messages, with time and module")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")

    stage = commands.add_parser("stage", help="run one stage of dvc.yaml on the files that are there")
    stage.add_argument("name", choices=STAGES)
    stage.add_argument("--params", type=Path, default=Path("params.yaml"))
    stage.add_argument("--dry-run", action="store_true", help="print the stage's resolved settings and stop")
    stage.add_argument(
        "--quarantine",
        action="store_true",
        help="validate: go on without the files that break a rule, and list them (also: validate.quarantine)",
    )
    stage.set_defaults(run=_run_stage)

    patch = commands.add_parser("patch", help="run the stage patch, e.g. on a Dask cluster; the same bytes come out")
    patch.add_argument("--executor", choices=("processes", "dask"), help="in place of patch.executor")
    patch.add_argument("--scheduler", metavar="ADDRESS", help="in place of patch.scheduler, e.g. tcp://10.0.0.5:8786")
    patch.add_argument("--workers", type=int, help="in place of patch.workers")
    patch.add_argument("--params", type=Path, default=Path("params.yaml"))
    patch.set_defaults(run=_patch)

    train = commands.add_parser("train", help="bring every stage up to date, from scratch or from the champion")
    train.add_argument(
        "--from",
        dest="start",
        choices=("champion", "scratch"),
        help="what training starts from; pinned in params.yaml (default: what is pinned there)",
    )
    train.add_argument("--pin-only", action="store_true", help="write params.yaml and stop; needs up-to-date patches")
    train.set_defaults(run=_train)

    data = commands.add_parser("data", help="bring data sets in").add_subparsers(required=True, parser_class=_Parser)
    importing = data.add_parser("import", help="copy a data set into data/raw/NAME and check every image")
    importing.add_argument("name", choices=("cifar10", "mvtec", "magnetic_tile", "sixray", "folder"))
    importing.add_argument("--from", dest="source", type=Path, required=True, help="folder or archive to read")
    importing.add_argument(
        "--class", dest="categories", action="append", help="MVTec AD: a category, e.g. bottle; may come again"
    )
    importing.add_argument("--listing", type=Path, help="own folder: a CSV or Parquet file that names the images")
    importing.add_argument(
        "--quarantine", action="store_true", help="leave files out that do not open, and list them with reasons"
    )
    importing.add_argument("--root", type=Path, help="where to (default: data/raw/NAME)")
    importing.add_argument("--link", action="store_true", help="hard-link instead of copying (same file system)")
    importing.set_defaults(run=_import)

    fetching = data.add_parser("fetch", help="download a public data set, verify it and import it")
    fetching.add_argument("name", choices=("cifar10", "mvtec", "magnetic_tile", "sixray"))
    fetching.add_argument("--accept-licence", action="store_true", help="you have read and accept its licence")
    fetching.add_argument(
        "--class",
        dest="categories",
        nargs="+",
        metavar="CLASS",
        help="MVTec AD: categories, e.g. bottle (default: all)",
    )
    fetching.add_argument("--root", type=Path, help="where to (default: data/raw/NAME)")
    fetching.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="where archives are kept")
    fetching.add_argument("--url", help="another address of the set, e.g. your own mirror; the checksum is verified")
    fetching.add_argument("--sha256", help="checksum of a repacked copy at --url, in place of the published one")
    fetching.set_defaults(run=_fetch)

    accepting = data.add_parser(
        "accept", help="make the data validated last the set that later ones may not drift from"
    )
    accepting.set_defaults(run=lambda _options: _accept())

    summary = commands.add_parser("summary", help="show the results of the last `dvc repro`")
    summary.add_argument("--json", action="store_true")
    summary.set_defaults(run=_summary)

    audit = commands.add_parser("audit", help="what the results depend on: leaks, and the display")
    audits = audit.add_subparsers(required=True, parser_class=_Parser)
    leakage = audits.add_parser("leakage", help="exit code 1 where a leak is found; shortcuts in the data are reported")
    which = leakage.add_mutually_exclusive_group()
    which.add_argument("--bundle", type=Path, help="a bundle folder (default: what the last `dvc repro` made)")
    which.add_argument("--run", dest="run_id", metavar="ID", help="the registered version of this MLflow run")
    leakage.add_argument("--json", action="store_true")
    leakage.add_argument("--params", type=Path, default=Path("params.yaml"))
    leakage.set_defaults(run=_audit_leakage)
    displays = audits.add_parser(
        "displays", help="what a bundle reaches on test images that are shown darker, blurred, in other hues, ..."
    )
    displays.add_argument("--bundle", type=Path, help="a bundle folder (default: what the last `dvc repro` made)")
    displays.add_argument("--images", type=int, default=100, metavar="N", help="of each label (default: 100)")
    displays.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    displays.add_argument("--json", action="store_true")
    displays.add_argument("--params", type=Path, default=Path("params.yaml"))
    displays.set_defaults(run=_audit_displays)

    benchmark = commands.add_parser(
        "benchmark",
        help="rebuild a table or a figure, cell by cell",
        description=f"NAME is one of {', '.join(BENCHMARKS)}.",
    )
    benchmark.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    benchmark.add_argument(
        "--budget", choices=("paper", "gpu", "cpu"), default="cpu", help="what every system may spend (default: cpu)"
    )
    benchmark.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 (default: 1)")
    benchmark.add_argument("--classes", nargs="+", metavar="NAME", help="classes, categories or sets (default: all)")
    benchmark.add_argument("--systems", nargs="+", metavar="NAME", help="names of systems (default: all)")
    benchmark.add_argument(
        "--data", type=Path, default=Path("data/raw"), help="folder of data sets, imported or as published"
    )
    benchmark.add_argument("--work", type=Path, default=Path(".vigil/benchmark"), help="where cells are made and kept")
    benchmark.add_argument("--out", type=Path, default=Path("docs/results"), help="where tables and plots go")
    benchmark.add_argument("--presets", type=Path, default=Path("presets"), help="folder of the project's presets")
    benchmark.add_argument("--keep", action="store_true", help="keep weights, scores and maps of finished cells")
    show = benchmark.add_mutually_exclusive_group()
    show.add_argument("--list", action="store_true", help="show the cells and which are finished, and stop")
    show.add_argument("--tables-only", action="store_true", help="write the tables from the cells that there are")
    benchmark.add_argument("--params", type=Path, default=Path("params.yaml"), help="says where MLflow is")
    benchmark.set_defaults(run=_benchmark)

    screen = commands.add_parser("screen", help="screen images with the champion or with a bundle folder")
    screen.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="images or folders of images")
    screen.add_argument("--bundle", type=Path, help="a bundle folder (default: the registry's champion)")
    screen.add_argument("--json", action="store_true", help="one JSON object per image, and nothing else")
    screen.add_argument("--out", type=Path, help="folder for heat maps, results.jsonl and appearance.json")
    screen.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    screen.add_argument("--params", type=Path, default=Path("params.yaml"))
    screen.set_defaults(run=_screen)

    calibrate = commands.add_parser(
        "calibrate", help="give a bundle the threshold of other images, e.g. of a changed display, without training"
    )
    calibrate.add_argument("--normal", nargs="+", type=Path, required=True, metavar="PATH", help="images or folders")
    calibrate.add_argument(
        "--anomalous", nargs="+", type=Path, default=[], metavar="PATH", help="with these the threshold keeps a recall"
    )
    calibrate.add_argument("--out", type=Path, required=True, help="folder of the bundle to write")
    calibrate.add_argument("--bundle", type=Path, help="a bundle folder (default: the registry's champion)")
    calibrate.add_argument("--register", action="store_true", help="make it the registry's challenger")
    calibrate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    calibrate.add_argument("--params", type=Path, default=Path("params.yaml"), help="says target and confidence")
    calibrate.set_defaults(run=_calibrate)

    for name, text in (
        ("promote", "make the challenger the champion, if it is better"),
        ("rollback", "make the previous champion the champion again"),
        ("history", "show every promotion, refusal and rollback"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--params", type=Path, default=Path("params.yaml"))
        command.set_defaults(run=globals()[f"_{name}"])
        if name == "history":
            command.add_argument("--json", action="store_true")
        else:
            command.add_argument("--who", default=_user(), help="kept in the history")
            command.add_argument("--why", default="", help="kept in the history")
        if name == "promote":
            command.add_argument(
                "--accept",
                action="store_true",
                help="overrule the rules (never a damaged bundle or a leak); needs --why",
            )
            command.add_argument(
                "--accept-finding",
                action="append",
                default=[],
                metavar="NAME",
                help="promote although the audit found this shortcut in the data (repeatable); needs --why",
            )
    return parser


def _user() -> str:
    """The name of who runs the command; a container may know the number alone."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _load(path: Path) -> Params:
    from vigil.config import load_params

    return load_params(path)


# ------------------------------------------------------------------------------------------------------------ pipeline


def _run_stage(options: argparse.Namespace) -> None:
    if options.quarantine and options.name != "validate":
        raise ConfigError(f"--quarantine is an option of `vigil stage validate`, not of {options.name}")
    params = _load(options.params)
    run = importlib.import_module(f"vigil.stages.{options.name}").run
    sections = {
        name: getattr(params, _SECTION_ATTRIBUTES.get(name, name)) for name in inspect.signature(run).parameters
    }
    if options.quarantine:
        sections["validate"] = sections["validate"].model_copy(update={"quarantine": True})
    if options.dry_run:
        _show(json.dumps({name: section.model_dump(mode="json") for name, section in sections.items()}, indent=2))
        return
    run(**sections)


def _patch(options: argparse.Namespace) -> None:
    from vigil.config import with_values
    from vigil.stages.patch import run

    params = _load(options.params)
    given = {name: getattr(options, name) for name in ("executor", "scheduler", "workers")}
    run(params.data, with_values(params.patch, {name: value for name, value in given.items() if value is not None}))


def _train(options: argparse.Namespace) -> int:
    """Leaves the work to DVC: the start is a param like any other, so lineage stands in params.yaml and dvc.lock."""
    from vigil.stages.pinning import pin_start

    if options.pin_only and not options.start:
        raise ConfigError("--pin-only needs --from champion or --from scratch: there is nothing else to write")
    if options.start:
        if options.start == "champion" and not options.pin_only and (code := _repro("patch")):
            return code
        pin_start(options.start)
    if options.pin_only:
        return 0
    if code := _repro():
        return code
    _summary(argparse.Namespace(json=False))
    return 0


def _repro(*targets: str) -> int:
    import subprocess

    # DVC's own exit code is 255 for everything; the stage's error stands above its last line.
    return 1 if subprocess.run([sys.executable, "-m", "dvc", "repro", *targets], check=False).returncode else 0


def _import(options: argparse.Namespace) -> None:
    from vigil.images.importing import import_data

    root = options.root or Path("data/raw") / options.name
    _show_import(
        import_data(
            options.name, options.source, root, options.categories, options.link, options.quarantine, options.listing
        )
    )


def _fetch(options: argparse.Namespace) -> None:
    from vigil.images.fetching import fetch_data

    summary = fetch_data(
        options.name,
        options.root or Path("data/raw") / options.name,
        categories=options.categories or (),
        accept_licence=options.accept_licence,
        url=options.url,
        sha256=options.sha256,
        downloads=options.downloads,
    )
    _show_import(summary)
    _say(f"The archive is kept in {options.downloads / options.name}; it may be deleted.")


def _show_import(summary: ImportSummary) -> None:
    for warning in summary.warnings:
        _say(f"warning: {warning}")
    _show(summary.describe())


def _accept() -> None:
    from vigil.images.drift import STATISTICS, accept
    from vigil.images.validation_report import RESULT, failed_folder
    from vigil.stages import layout

    failed = failed_folder(layout.VALIDATION_REPORT)
    if (failed / RESULT).is_file() and not (failed / STATISTICS).is_file():
        raise DataError(f"the data break other rules than those on drift: see {failed}/index.html, and mend them first")
    data, now, before = accept((failed / STATISTICS, layout.VALIDATION_REPORT / STATISTICS), layout.REFERENCE)
    _show(f"Accepted {data['root']} ({data['name']}) as the set that later ones may not drift from:")
    for kind in sorted({*now.images_of_kind, *(before.images_of_kind if before else ())}):
        was = "" if before is None else f" (before: {before.images_of_kind[kind]})"
        _show(f"  {kind}: {now.images_of_kind[kind]} images{was}")
    _show(f"Commit {layout.REFERENCE}, and run `dvc repro`.")


def _summary(options: argparse.Namespace) -> None:
    from vigil.stages.summary import read_summary

    summary = read_summary()
    _show(json.dumps(summary.as_json(), indent=2) if options.json else summary.as_text())


def _audit_leakage(options: argparse.Namespace) -> None:
    from vigil.stages.leakage_audit import audit_project

    audit = audit_project(_load(options.params), options.bundle, options.run_id)
    _show(json.dumps(audit.as_json(), indent=2) if options.json else audit.as_text())
    if audit.leaks:
        raise LeakFound(f"{len(audit.leaks)} of {len(audit.checks)} checks found a leak: {', '.join(audit.leaks)}")


def _audit_displays(options: argparse.Namespace) -> None:
    from vigil.stages import layout
    from vigil.stages.display_audit import as_text, audit_displays

    if options.images < 1:
        raise ConfigError(f"--images {options.images}: expected at least 1")
    found = audit_displays(_load(options.params), options.bundle or layout.BUNDLE, options.images, options.device)
    _show(json.dumps(found, indent=2) if options.json else as_text(found))


def _benchmark(options: argparse.Namespace) -> int:
    from vigil.benchmark.command import Options, planned, run_benchmark, write_results

    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: expected at least 1")
    asked = Options(
        name=options.name,
        budget=options.budget,
        seeds=options.seeds,
        data=options.data,
        work=options.work,
        out=options.out,
        presets=options.presets,
        tracking_uri=_load(options.params).registration.tracking_uri,
        parts=options.classes,
        systems=options.systems,
        keep=options.keep,
    )
    if options.list:
        for cell, state in planned(asked):
            _show(f"{cell.name}  {state}")
        return 0
    if options.tables_only:
        written, failed = write_results(asked), {}
    else:
        outcome = run_benchmark(asked)
        written, failed = list(outcome.written), dict(outcome.failed)
    for path in written:
        _show(str(path))
    for cell, error in failed.items():
        _say(f"failed: {cell.name}: {error}")
    if failed:
        _say(f"{len(failed)} cell(s) failed; the same command tries them again and makes nothing else twice.")
    return 1 if failed else 0


# ------------------------------------------------------------------------------------------------- registry, screening


def _promote(options: argparse.Namespace) -> None:
    from vigil.delivery.promotion import promote

    params = _load(options.params)
    result = promote(
        params.registration,
        params.promote,
        who=options.who,
        why=options.why,
        accept=options.accept,
        accept_findings=options.accept_finding,
    )
    _show(result.describe())


def _rollback(options: argparse.Namespace) -> None:
    from vigil.delivery.promotion import rollback

    _show(rollback(_load(options.params).registration, who=options.who, why=options.why).describe())


def _history(options: argparse.Namespace) -> None:
    from vigil.delivery.promotion import history

    events = history(_load(options.params).registration)
    if options.json:
        _show(json.dumps([event.as_json() for event in events], indent=2))
    else:
        _show("\n".join(event.describe() for event in events) or "No promotion has been tried yet.")


def _opened(options: argparse.Namespace) -> tuple[Bundle, str]:
    """The bundle that was asked for, and what to call it."""
    from vigil.delivery.bundle import load_bundle

    if options.bundle:
        return load_bundle(options.bundle), f"bundle {options.bundle}"
    from vigil.delivery.mlflow_registry import load_champion_bundle

    return load_bundle(load_champion_bundle(_load(options.params).registration)), "the champion"


def _calibrate(options: argparse.Namespace) -> None:
    from vigil.serving.recalibration import as_text, check_folder, recalibrate, write_recalibrated

    params = _load(options.params)
    bundle, origin = _opened(options)
    check_folder(options.out, bundle)
    _say(f"Calibrating {origin}")
    found = recalibrate(bundle, options.normal, options.anomalous, params.calibrate, device=options.device)
    record = write_recalibrated(options.out, bundle, found)
    _show(as_text(found, bundle.calibration.threshold))
    _show(f"Written: {options.out}, bundle {record.digest[:12]}")
    if not options.register:
        _show(f"Next: vigil screen --bundle {options.out} PATH...")
        return
    from vigil.delivery.mlflow_registry import register

    registered = register(options.out, params.registration)
    _show(f"{registered.name} v{registered.version.number} is the challenger; next: vigil promote --accept --why ...")


def _screen(options: argparse.Namespace) -> int:
    from vigil.images.appearance import Look, warning_of
    from vigil.serving.screening import appearance_shifts, screen

    bundle, origin = _opened(options)
    if not options.json:
        _say(f"Screening with {origin}, threshold {bundle.calibration.threshold:.6g}")

    counts: dict[str, int] = {}
    lines: list[str] = []
    looks: list[Look] = []
    for result in screen(bundle, options.paths, device=options.device, heat_map_folder=options.out):
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
        record: dict[str, Any] = result.as_json()
        lines.append(json.dumps(record, sort_keys=True))
        if result.appearance is not None:
            looks.append(result.appearance)
        if options.json:
            _show(lines[-1])
        else:
            score = "-" if result.score is None else f"{result.score:.6g}"
            _show(f"{result.verdict:<10} {score:>12}  {result.path}{f'  ({result.reason})' if result.reason else ''}")
    if not counts:
        raise DataError(f"no images found below {', '.join(map(str, options.paths))}; expected image files or folders")
    found = appearance_shifts(bundle, looks)
    if options.out:
        from vigil.files import write_json, write_text

        write_text(options.out / "results.jsonl", "\n".join(lines) + "\n")
        features = {shift.feature: shift.as_json() for shift in found}
        write_json(options.out / "appearance.json", {"images": len(looks), "features": features})
    if not options.json:
        _say(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if bundle.appearance is None:
        _say("note: this bundle keeps no looks of its calibration images, so nothing warns of a changed display")
    elif warning := warning_of(found, len(looks)):
        _say(f"warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
