# SPDX-License-Identifier: Apache-2.0
"""Recordings at addresses give what they give here; a real server of files stands for an object store."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bags import plain, small_contract, write_recording

from sigma_ros.addresses import address_of, copied, files_at
from sigma_ros.bags.files import files_size_bytes, files_stamp, find_bags
from sigma_ros.bags.lerobot_dataset import write_dataset
from sigma_ros.bags.reader import open_bag
from sigma_ros.bags.transcode import load_episode, rows_of
from sigma_ros.errors import MachineError, SigmaError, UsageError
from sigma_ros.inspection.places import look_into

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
CONTRACT = small_contract()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Nothing is printed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bags, a single file and a data set."""
    root = tmp_path_factory.mktemp("store")
    for name, storage in (("bags/one", "mcap"), ("bags/two", "sqlite3")):
        write_recording(root / name, CONTRACT, ticks=20, storage=storage)  # type: ignore[arg-type]
    write_dataset([root / "bags" / "one"], CONTRACT, root / "set", videos=False)
    return root


@pytest.fixture(params=["file", "memory", "http", "s3"])
def base(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same folder behind an address."""
    if request.param == "file":
        yield f"file://{folder}"
    elif request.param == "memory":
        fsspec.filesystem("memory").put(str(folder), "/store", recursive=True)
        yield "memory://store"
        fsspec.filesystem("memory").rm("/store", recursive=True)
    elif request.param == "s3":
        yield from _bucket(folder, monkeypatch)
    else:
        pytest.importorskip("aiohttp", reason="aiohttp is not installed, which fsspec needs for http")
        handler = partial(_Quiet, directory=str(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


def _bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder in a bucket of a real server that speaks S3's protocol, found as users say it: by the environment."""
    pytest.importorskip("s3fs", reason="s3fs is not installed, which fsspec needs for s3")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.makedirs("recordings", exist_ok=True)
        store.put(f"{folder}/", "recordings/", recursive=True)
        yield "s3://recordings"
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()


def test_bags_at_an_address_are_found_and_give_the_same_records(base: str, folder: Path) -> None:
    found = find_bags([Path(f"{base}/bags")])
    assert [bag.name for bag in found] == ["one", "two"]
    for bag in found:
        here = folder / "bags" / bag.name
        with open_bag(bag, strict=True) as remote, open_bag(here) as local:
            assert [plain(r) for r in remote.records()] == [plain(r) for r in local.records()]
            assert remote.info.sha256() == local.info.sha256()
            copy = remote.info.files[0]
        assert not copy.exists(), "the copy goes with the bag"
        assert files_size_bytes(bag) == files_size_bytes(here)
        assert files_stamp(bag) == files_stamp(bag)
    assert not look_into(f"{base}/bags/one", contract=CONTRACT).losses


def test_a_data_set_at_an_address_gives_the_same_rows(base: str, folder: Path) -> None:
    sources = [load_episode(place, 0, CONTRACT) for place in (f"{base}/set", str(folder / "set"))]
    for remote, local in zip(*(rows_of(source, CONTRACT) for source in sources), strict=True):
        assert remote.stamp_ns == local.stamp_ns
        assert remote.state_rad.tolist() == local.state_rad.tolist()
        assert all((remote.pictures[name] == local.pictures[name]).all() for name in local.pictures)
    assert look_into(f"{base}/set").kind == "data set"


@pytest.mark.parametrize("address", ["memory://nowhere/at/all", "nosuch://host/bag", "http://127.0.0.1:9/bag"])
def test_what_cannot_be_read_is_one_sentence(address: str) -> None:
    with pytest.raises(SigmaError) as caught:
        find_bags([Path(address)])
    assert "\n" not in str(caught.value)


def test_a_copy_that_the_disk_has_no_room_for_is_refused_before_it_begins(folder: Path, tmp_path: Path) -> None:
    address = f"file://{folder / 'bags' / 'one'}"
    huge = [file._replace(size_bytes=1 << 60) for file in files_at(address)]
    with pytest.raises(MachineError, match="no room"):
        copied(address, huge, tmp_path)
    small = [file._replace(size_bytes=1) for file in files_at(address)]
    with pytest.raises(UsageError, match="larger than was said"):
        copied(address, small, tmp_path)


def test_paths_of_this_machine_are_no_addresses(tmp_path: Path) -> None:
    assert address_of(tmp_path) is None
    assert address_of("lerobot/svla_so101_pickplace") is None
    assert address_of(Path("s3://bucket/bags")) == "s3://bucket/bags"
