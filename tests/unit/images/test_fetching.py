"""Downloads from a real server: resumed, verified, whole or not there; archives that mean harm stay outside."""

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import os
import resource
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from tests.local_server import Server, running_server
from tests.real_data import REAL, needs
from vigil.cli import main
from vigil.errors import ConfigError, DataError
from vigil.files import read_json
from vigil.images import archives
from vigil.images.archives import extract
from vigil.images.downloading import Patience, download
from vigil.images.fetching import SOURCES, Source, fetch_data, fetch_source, git_tree
from vigil.progress import Progress

QUICK = Patience(retries=3, first_wait_s=0.01, connect_s=2, silence_s=0.5)
CONTENT = np.random.default_rng(0).bytes(3_000_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with running_server() as running:
        running.behaviour.files["/set.bin"] = CONTENT
        yield running


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def got(server: Server, target: Path, sha256: str | None = SHA256, size: int | None = None) -> str:
    return download([f"{server.address}/set.bin"], target, sha256=sha256, size=size, patience=QUICK)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------- one download


@pytest.mark.parametrize("lengths", [True, False])
def test_a_file_comes_whole_and_alone(server: Server, tmp_path: Path, lengths: bool) -> None:
    server.behaviour.lengths = lengths
    assert got(server, tmp_path / "a.bin") == f"{server.address}/set.bin"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]


def test_a_cut_off_transfer_goes_on_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after = [1_000_000, 500_000]
    got(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [r.get("Range") for r in server.behaviour.seen] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert all("If-Range" in r for r in server.behaviour.seen[1:])


def test_what_one_run_left_the_next_one_builds_on(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after = [700_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"keeps breaking off .* 700000 bytes are there.*run the same command again"):
        got(server, tmp_path / "a.bin")
    assert names(tmp_path) == [".a.bin.part", ".a.bin.part.json"]
    server.behaviour.cut_after.clear()
    got(server, tmp_path / "a.bin")
    assert server.behaviour.seen[-1]["Range"] == "bytes=700000-"
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_killed_run_is_continued(server: Server, tmp_path: Path) -> None:
    server.behaviour.files["/set.bin"] = content = CONTENT * 30
    code = (
        "import sys; from pathlib import Path; from vigil.images.downloading import download;"
        "download([sys.argv[1]], Path(sys.argv[2]), sha256=None, size=None)"
    )
    part = tmp_path / ".a.bin.part"
    child = subprocess.Popen([sys.executable, "-c", code, f"{server.address}/set.bin", str(tmp_path / "a.bin")])
    try:
        deadline = time.monotonic() + 60
        while not (part.is_file() and part.stat().st_size > 1_000_000):
            assert time.monotonic() < deadline
            assert child.poll() is None, "the download ended before it could be killed"
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    finally:
        child.wait()
    assert names(tmp_path) == [".a.bin.part", ".a.bin.part.json"]
    got(server, tmp_path / "a.bin", sha(content))
    assert "Range" in server.behaviour.seen[-1]
    assert (tmp_path / "a.bin").read_bytes() == content


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.behaviour.ranges = False
    server.behaviour.cut_after = [1_200_000]
    got(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("new", [b"another file" * 200_000, b"a short one"])
@pytest.mark.parametrize("checked", [True, False])
def test_two_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path, new: bytes, checked: bool) -> None:
    server.behaviour.cut_after = [1_500_000, 0, 0, 0, 0]
    with pytest.raises(DataError, match="keeps breaking off"):
        got(server, tmp_path / "a.bin", None)
    server.behaviour.cut_after.clear()
    server.behaviour.files["/set.bin"] = new
    got(server, tmp_path / "a.bin", sha(new) if checked else None)
    assert (tmp_path / "a.bin").read_bytes() == new


@pytest.mark.parametrize("extra", [0, 9])
def test_a_part_as_long_as_the_file_or_longer(server: Server, tmp_path: Path, extra: int) -> None:
    (tmp_path / ".a.bin.part").write_bytes(CONTENT + b"x" * extra)
    got(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert len(server.behaviour.seen) == (1 if not extra else 2)


def test_a_damaged_part_is_downloaded_anew_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".a.bin.part").write_bytes(b"x" * 1000)
    got(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"the checksum is wrong: expected SHA-256 {'0' * 64}, found {SHA256}"):
        got(server, tmp_path / "a.bin", "0" * 64)
    assert names(tmp_path) == []


def test_a_page_in_place_of_the_file_is_refused_by_its_size(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file of 17 bytes, the server offers 3000001"):
        got(server, tmp_path / "a.bin", size=17)
    assert not (tmp_path / "a.bin").exists()


def test_a_missing_file_is_looked_for_at_the_next_address(server: Server, tmp_path: Path) -> None:
    urls = [f"{server.address}/moved.bin", f"{server.address}/set.bin"]
    assert download(urls, tmp_path / "a.bin", sha256=SHA256, size=None, patience=QUICK) == urls[1]
    with pytest.raises(DataError, match=r"no address has the file:\n.*moved.bin: HTTP 404 .*\nThe set may have moved"):
        download(urls[:1], tmp_path / "b.bin", sha256=SHA256, size=None, patience=QUICK)
    assert names(tmp_path) == ["a.bin"]


def test_a_busy_server_is_given_the_time_that_it_asks_for(server: Server, tmp_path: Path) -> None:
    server.behaviour.statuses = [(503, {"Retry-After": "1"}), (500, {}), (429, {"Retry-After": "nonsense"})]
    start = time.monotonic()
    got(server, tmp_path / "a.bin")
    assert time.monotonic() - start > 1
    server.behaviour.statuses = [(500, {})] * 4
    with pytest.raises(DataError, match=r"keeps breaking off \(HTTP 500"):
        got(server, tmp_path / "b.bin")


def test_silence_and_a_closed_port_are_named(server: Server, tmp_path: Path) -> None:
    server.behaviour.stall_s = 0.3
    hasty = Patience(retries=1, first_wait_s=0.01, connect_s=2, silence_s=0.05)
    with pytest.raises(DataError, match=r"keeps breaking off \(.*[Tt]imed out"):
        download([f"{server.address}/set.bin"], tmp_path / "a", sha256=None, size=None, patience=hasty)
    with pytest.raises(DataError, match=r"keeps breaking off \(.*[Rr]efused"):
        download(["http://127.0.0.1:9/x"], tmp_path / "a", sha256=None, size=None, patience=hasty)


@pytest.mark.parametrize(
    ("status", "headers"), [(206, {}), (206, {"Content-Range": "bytes x"}), (204, {}), (304, {}), (400, {})]
)
def test_an_answer_of_no_use_is_named(server: Server, tmp_path: Path, status: int, headers: dict[str, str]) -> None:
    server.behaviour.statuses = [(status, headers)]
    with pytest.raises(DataError, match=r"unexpected answer|the server sent others"):
        got(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_other_bytes_than_asked_for_are_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.cut_after, server.behaviour.wrong_range = [1000], True
    with pytest.raises(DataError, match="asked for bytes from 1000 on, the server sent others"):
        got(server, tmp_path / "a.bin")


def test_redirects_are_followed_but_not_for_ever(server: Server, tmp_path: Path) -> None:
    server.behaviour.redirects = {"/here": "/set.bin", "/loop": "/loop"}
    download([f"{server.address}/here"], tmp_path / "a.bin", sha256=SHA256, size=None, patience=QUICK)
    with pytest.raises(DataError, match="cannot be followed"):
        download([f"{server.address}/loop"], tmp_path / "b.bin", sha256=SHA256, size=None, patience=QUICK)


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    download(["http://sets.invalid/set.bin"], tmp_path / "a.bin", sha256=SHA256, size=None, patience=QUICK)
    assert server.behaviour.seen[0]["path"] == "http://sets.invalid/set.bin"


def test_a_full_disk_is_named_and_the_part_goes_on_later(server: Server, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DataError, match=r"the disk is full .*make room and run the same command again"):
            got(server, tmp_path / "a.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "a.bin").exists()
    got(server, tmp_path / "a.bin")
    assert server.behaviour.seen[-1]["Range"] == "bytes=1000000-"
    server.behaviour.lengths = False
    with pytest.raises(DataError, match=r"\d+ bytes are to come, \d+ are free; make room"):
        got(server, tmp_path / "b.bin", size=1 << 60)


def test_progress_without_a_total_shows_no_eta() -> None:
    assert "ETA" in Progress("x", 5, "MiB").status()
    assert "ETA" not in Progress("x", None, "MiB").status()


# ------------------------------------------------------------------------------------------ whole sets, through the CLI


def png(seed: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def tar_of(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def category(name: str) -> dict[str, bytes]:
    paths = ("train/good/0.png", "test/good/0.png", "test/dent/0.png")
    members = {f"{name}/{path}": png(place) for place, path in enumerate(paths)}
    return {**members, f"{name}/ground_truth/dent/0_mask.png": png(9, "L"), f"{name}/readme.txt": b"hello"}


def command(server: Server, tmp_path: Path, name: str, path: str, *more: str) -> list[str]:
    folders = ["--root", str(tmp_path / "raw"), "--downloads", str(tmp_path / "downloads")]
    return ["data", "fetch", name, "--url", f"{server.address}{path}", *folders, *more]


def test_without_the_licence_nothing_is_asked_of_the_network(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server, tmp_path, "mvtec", "/x.tar.xz")) == ConfigError.exit_code
    said = capsys.readouterr().err
    for part in ("CC BY-NC-SA 4.0", "mydrive.ch", "5,265 MB", SOURCES["mvtec"].sha256 or "", "--accept-licence"):
        assert part in said
    assert not server.behaviour.seen
    assert names(tmp_path) == []


def test_sixray_says_how_to_get_it_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "sixray", "--accept-licence"]) == DataError.exit_code
    assert "vigil data import sixray --from SIXRAY" in capsys.readouterr().err


def test_cifar10_comes_in_and_costs_one_download(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tar_of({"train/cat/0.png": png(0), "test/cat/0.png": png(1)})
    server.behaviour.files["/mirror/cats.tar.gz"] = content
    arguments = command(
        server, tmp_path, "cifar10", "/mirror/cats.tar.gz", "--sha256", sha(content).upper(), "--accept-licence"
    )
    assert main(arguments) == 0
    assert "cifar10: 2 images in" in capsys.readouterr().out
    receipt = read_json(tmp_path / "downloads/cifar10/cats.tar.gz.json")
    assert (receipt["sha256"], receipt["verified_against"]) == (sha(content), "--sha256")
    assert receipt["url"].endswith("/mirror/cats.tar.gz")
    assert read_json(tmp_path / "raw/vigil-import.json")["images"] == 2
    assert main(arguments) == 0
    assert len(server.behaviour.seen) == 1
    (tmp_path / "downloads/cifar10/cats.tar.gz").write_bytes(b"changed")
    assert main(arguments) == DataError.exit_code
    assert "the file was changed since it was downloaded" in capsys.readouterr().err


def test_a_mirror_is_held_against_the_published_checksum(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behaviour.files["/c.tar.gz"] = tar_of({"train/cat/0.png": png(0)})
    server.behaviour.lengths = False
    assert main(command(server, tmp_path, "cifar10", "/c.tar.gz", "--accept-licence")) == DataError.exit_code
    assert "checksum is wrong" in capsys.readouterr().err
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("pack", [tar_of, lambda m: tar_of(m, "w:xz"), zip_of])
def test_mvtec_comes_by_category_or_as_a_whole(
    server: Server, tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    top = {f"mvtec/{k}": v for name in ("tile", "wood") for k, v in category(name).items()}
    server.behaviour.files["/m"] = content = pack({**top, "mvtec/license.txt": b"x"})
    url, options = f"{server.address}/m", {"downloads": tmp_path / "downloads", "accept_licence": True}
    one = fetch_data("mvtec", tmp_path / "a", categories=["wood"], url=url, sha256=sha(content), **options)  # type: ignore[arg-type]
    assert (one.name, one.images, one.masks) == ("mvtec", 3, 1)
    assert names(tmp_path / "a") == ["wood"]
    both = fetch_data("mvtec", tmp_path / "b", url=url, sha256=sha(content), **options)  # type: ignore[arg-type]
    assert (both.images, names(tmp_path / "b")) == (6, ["tile", "wood"])
    assert len(server.behaviour.seen) == 1
    assert names(tmp_path / "downloads/mvtec") == [".lock", "m", "m.json"]
    with pytest.raises(DataError, match="holds no folder screw; this is not mvtec"):
        fetch_data("mvtec", tmp_path / "c", categories=["screw"], url=url, sha256=sha(content), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "c").exists()
    assert ".unpacked" not in names(tmp_path / "downloads/mvtec")


def tiles(tmp_path: Path) -> tuple[Source, dict[str, bytes]]:
    """A set that is verified by its git trees, as git itself names them."""
    members = category("tile")
    for name, content in members.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    environment = {**os.environ, "GIT_DIR": str(tmp_path / "git"), "GIT_WORK_TREE": str(tmp_path / "tree")}
    for arguments in (["init", "-q"], ["add", "tile"]):
        subprocess.run(["git", *arguments], env=environment, check=True)
    tree = subprocess.run(
        ["git", "write-tree", "--prefix=tile/"], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert git_tree(tmp_path / "tree/tile") == tree
    return Source("mvtec", "none", ("http://127.0.0.1:9/x",), "t.tar.gz", trees={"tile": tree}), members


def test_a_set_without_a_checksum_is_verified_by_its_git_trees(server: Server, tmp_path: Path) -> None:
    source, members = tiles(tmp_path)
    server.behaviour.files["/t"] = tar_of({f"set-abc/{name}": content for name, content in members.items()})
    options = {"url": f"{server.address}/t", "downloads": tmp_path / "d", "patience": QUICK}
    assert fetch_source(source, tmp_path / "raw", **options).images == 3  # type: ignore[arg-type]
    assert read_json(tmp_path / "d/mvtec/t.tar.gz.json")["verified_against"] == "git trees"
    (tmp_path / "d/mvtec/t.tar.gz").unlink()
    members["tile/test/good/0.png"] = png(77)
    server.behaviour.files["/t"] = tar_of({f"set-abc/{name}": content for name, content in members.items()})
    with pytest.raises(DataError, match=r"t.tar.gz::tile: expected the git tree .* and was removed"):
        fetch_source(source, tmp_path / "raw2", **options)  # type: ignore[arg-type]
    assert names(tmp_path / "d/mvtec") == [".lock"]
    assert not (tmp_path / "raw2").exists()


def test_two_runs_do_not_write_the_same_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "d/cifar10").mkdir(parents=True)
    with (tmp_path / "d/cifar10/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another `vigil data fetch` is at work there"):
            fetch_data("cifar10", tmp_path / "raw", accept_licence=True, downloads=tmp_path / "d")
    assert not server.behaviour.seen


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {}, "'digits' cannot be fetched; expected cifar10, mvtec, magnetic_tile or sixray"),
        ("mvtec", {"categories": ["bottel"]}, "--class bottel: expected one of bottle, cable"),
        ("magnetic_tile", {"categories": ["x"]}, r"--class x: expected one of \(none: leave it out\)"),
        ("mvtec", {"sha256": "12"}, "--sha256 12: expected 64 hexadecimal digits"),
        ("mvtec", {"url": "file:///etc/passwd"}, "expected an address that starts with https://"),
        ("mvtec", {"url": "http://[::1"}, "expected an address that starts with https://"),
        ("mvtec", {"url": "http://a:99999/"}, "expected an address that starts with https://"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch_data(name, tmp_path / "raw", accept_licence=True, downloads=tmp_path / "d", **options)  # type: ignore[arg-type]
    assert names(tmp_path) == []


@needs("magnetic_tile")
@pytest.mark.real_data
def test_the_real_magnetic_tiles_are_the_trees_of_the_commit() -> None:
    for name, tree in SOURCES["magnetic_tile"].trees.items():
        assert git_tree(REAL / "magnetic_tile" / name) == tree


# ------------------------------------------------------------------------------------------------------ evil archives


def special(name: str, kind: bytes, target: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return buffer.getvalue()


def zip_with(name: str, attributes: int = 0, content: bytes = b"x", replace: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        info = zipfile.ZipInfo(name)
        info.external_attr = attributes
        opened.writestr(info, content)
    return buffer.getvalue().replace(*replace) if replace[0] else buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of({"/tile/a": b"x"}), "leads out of the archive"),
        (tar_of({"tile/../../a": b"x"}), "leads out of the archive"),
        (special("tile/a", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device or another special member"),
        (special("tile/a", tarfile.LNKTYPE, "../a"), "a link, a device or another special member"),
        (special("tile/a", tarfile.BLKTYPE), "a link, a device or another special member"),
        (tar_of({"tile/a": b"x", "tile/./a": b"y"}), "two members have this path"),
        (tar_of({"tile/a": b"x", "tile/a/b": b"y"}), "two members have this path"),
        (tar_of({"tile/" + "n" * 300: b"x"}), "cannot be unpacked"),
        (tar_of({"tile/a": b"\0" * (65 << 20)}), "refused as a decompression bomb"),
        (zip_with("/tile/a"), "leads out of the archive"),
        (zip_with("tile/../../a"), "leads out of the archive"),
        (zip_with("tile/XX/a", replace=(b"XX", b"..")), "leads out of the archive"),
        (zip_with("tile/X\x01", replace=(b"X\x01", b"\0\x01")), "leads out of the archive"),
        (zip_with("tile/a", (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"), "a link, a device or another"),
        (zip_with("tile/a", (stat.S_IFIFO | 0o777) << 16), "a link, a device or another"),
        (zip_of({"tile/a": b"\0" * (65 << 20)}), "refused as a decompression bomb"),
        (zip_with("tile/a", content=b"needle", replace=(b"needle", b"noodle")), "not a readable zip"),
        (zip_of({"tile/a": b"x" * 99})[:-30], "not a readable zip archive, or cut off"),
        (b"PK\x03\x04 and nothing more", "not a readable zip archive, or cut off"),
        (b"", "not a readable tar archive, or cut off"),
        (b"<html>please log in</html>" * 99, "not a readable tar archive, or cut off"),
    ],
    # Not of the archives' bytes, which hold the time: two processes that collect must agree on the names.
    ids=itertools.count(),
)
def test_an_archive_that_means_harm_is_refused(server: Server, tmp_path: Path, content: bytes, message: str) -> None:
    server.behaviour.files["/evil"] = content
    with pytest.raises(DataError, match=message):
        fetch_data(
            "mvtec",
            tmp_path / "raw",
            accept_licence=True,
            url=f"{server.address}/evil",
            sha256=sha(content),
            downloads=tmp_path / "d",
            patience=QUICK,
        )
    assert names(tmp_path) == ["d"]
    assert names(tmp_path / "d/mvtec") == [".lock", "evil", "evil.json"]


def test_an_encrypted_member_and_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(zip_of({"a": b"x", "b": b"y", "c": b"z"}))
    for place in (content.find(b"PK\x03\x04") + 6, content.find(b"PK\x01\x02") + 8):
        content[place] |= 1
    (tmp_path / "e.zip").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"e.zip::a: encrypted; unpack it yourself"):
        extract(tmp_path / "e.zip", tmp_path / "out", lambda path: path)
    (tmp_path / "m.zip").write_bytes(zip_of({"a": b"x", "b": b"y", "c": b"z", ".d": b"hidden"}))
    assert extract(tmp_path / "m.zip", tmp_path / "out", lambda path: PurePosixPath("k", path)) == 3
    assert names(tmp_path / "out/k") == ["a", "b", "c"]
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(DataError, match="more than 2 members; refused"):
        extract(tmp_path / "m.zip", tmp_path / "out", lambda _: None)
