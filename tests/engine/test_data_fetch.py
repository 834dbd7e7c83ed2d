"""Fetching from folders and over HTTP, the cache, and what `load` makes of it."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from cnnengine.engine.data import REGISTRY, fetch, load
from cnnengine.engine.data.fetch import cache_folder
from cnnengine.engine.data.mini import EMBEDDED
from cnnengine.engine.errors import InputError

from .data_helpers import idx_bytes, pictures, tar_gz, toy_cifar, toy_mnist, write_gzip


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("layout", ["", "toy-mnist", "usr/share/datasets/toy-mnist"])
def test_fetch__from_folder_in_each_layout(tmp_path, layout):
    entry, files = toy_mnist()
    registry = {entry.name: entry}
    write_gzip(tmp_path / "source" / layout, files)
    folder = fetch(
        entry.name, source_dir=tmp_path / "source", cache_dir=tmp_path / "c", registry=registry
    )
    assert folder == tmp_path / "c" / entry.name
    assert everything_below(tmp_path / "c") == sorted(f"{entry.name}/{name}" for name in files)
    for name, data in files.items():
        assert (folder / name).read_bytes() == data
    splits = load(entry.name, cache_dir=tmp_path / "c", registry=registry)
    np.testing.assert_array_equal(splits.train.images[..., 0], pictures(30, seed=1))
    assert splits.test.class_counts().tolist() == [3, 3, 3]


def test_fetch__from_folder_of_decompressed_files(tmp_path):
    entry, files = toy_mnist()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    folder = fetch(
        entry.name, source_dir=tmp_path, cache_dir=tmp_path / "c", registry={entry.name: entry}
    )
    assert {path.name for path in folder.iterdir()} == set(files)


@pytest.mark.parametrize("packed", [True, False])
def test_fetch__cifar_archive_or_its_files(tmp_path, packed):
    entry, files = toy_cifar()
    registry = {entry.name: entry}
    source = tmp_path / "source"
    (source / "cifar-10-batches-bin").mkdir(parents=True)
    if packed:
        (source / "cifar.tar.gz").write_bytes(tar_gz(files))
    else:
        for name, data in files.items():
            (source / "cifar-10-batches-bin" / name).write_bytes(data)
    fetch(entry.name, source_dir=source, cache_dir=tmp_path / "c", registry=registry)
    splits = load(entry.name, cache_dir=tmp_path / "c", registry=registry)
    assert splits.train.images.shape == (15, 32, 32, 3)
    assert len(splits.mean) == 3


def altered(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (altered, "altered content"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"\0", "too long"),
    ],
)
def test_fetch__wrong_content_is_refused_and_nothing_is_left(tmp_path, change, message):
    entry, files = toy_mnist()
    files["t10k-images-idx3-ubyte"] = change(files["t10k-images-idx3-ubyte"])
    source = write_gzip(tmp_path / "source", files)
    with pytest.raises(InputError, match=rf"t10k-images-idx3-ubyte\.gz: {message}") as caught:
        fetch(
            entry.name,
            source_dir=source,
            cache_dir=tmp_path / "c",
            registry={entry.name: entry},
        )
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path / "c") == []


def test_fetch__truncated_gzip_and_missing_file(tmp_path):
    entry, files = toy_mnist()
    registry = {entry.name: entry}
    source = write_gzip(tmp_path / "source", files)
    packed = source / "train-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged gzip file"):
        fetch(entry.name, source_dir=source, cache_dir=tmp_path / "c", registry=registry)
    packed.unlink()
    with pytest.raises(InputError, match=r"neither train-labels-idx1-ubyte\.gz nor .* is in"):
        fetch(entry.name, source_dir=source, cache_dir=tmp_path / "c", registry=registry)
    with pytest.raises(InputError, match="no such folder"):
        fetch(entry.name, source_dir=tmp_path / "x", cache_dir=tmp_path / "c", registry=registry)
    assert everything_below(tmp_path / "c") == []


def test_fetch__class_counts_must_be_the_published_ones(tmp_path):
    entry, files = toy_mnist()
    entry = dataclasses.replace(entry, counts=((10, 10, 10), (4, 3, 2)))
    source = write_gzip(tmp_path / "source", files)
    with pytest.raises(InputError, match=r"toy-mnist/test: images per class are \(3, 3, 3\)"):
        fetch(
            entry.name,
            source_dir=source,
            cache_dir=tmp_path / "c",
            registry={entry.name: entry},
        )


def test_fetch__no_network_names_address_and_way_out(tmp_path):
    entry, _ = toy_mnist("http://127.0.0.1:9/")
    with pytest.raises(
        InputError, match=r"^http://127\.0\.0\.1:9/train-images-idx3-ubyte\.gz: .*--from DIR$"
    ):
        fetch(entry.name, cache_dir=tmp_path / "c", registry={entry.name: entry})
    assert everything_below(tmp_path) == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_fetch__over_http_tells_progress_and_uses_cache_afterwards(tmp_path, served):
    folder, address = served
    entry, files = toy_mnist(address)
    registry = {entry.name: entry}
    write_gzip(folder, files)
    told = []
    kept = fetch(
        entry.name,
        cache_dir=tmp_path / "c",
        progress=lambda *told_now: told.append(told_now),
        registry=registry,
    )
    packed_size = (folder / "train-images-idx3-ubyte.gz").stat().st_size
    assert told[0][0] == "train-images-idx3-ubyte.gz"
    assert ("train-images-idx3-ubyte.gz", packed_size, packed_size) in told
    assert all(done <= total for _, done, total in told)
    for path in folder.iterdir():
        path.unlink()
    assert fetch(entry.name, cache_dir=tmp_path / "c", registry=registry) == kept
    (kept / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="HTTP 404"):
        fetch(entry.name, cache_dir=tmp_path / "c", registry=registry)


def test_fetch__altered_download_names_its_address(tmp_path, served):
    folder, address = served
    entry, files = toy_cifar(address)
    files["test_batch.bin"] = altered(files["test_batch.bin"])
    (folder / "cifar.tar.gz").write_bytes(tar_gz(files))
    with pytest.raises(InputError, match=r"http://.*cifar\.tar\.gz: test_batch\.bin: altered"):
        fetch(entry.name, cache_dir=tmp_path / "c", registry={entry.name: entry})
    assert everything_below(tmp_path / "c") == []


def test_fetch__unknown_and_embedded_names(tmp_path):
    with pytest.raises(InputError, match=r"unknown data set 'mnits'.*did you mean mnist"):
        fetch("mnits")
    assert fetch("fashion-mnist-mini") == EMBEDDED
    with pytest.raises(InputError, match="nothing to fetch"):
        fetch("fashion-mnist-mini", source_dir=tmp_path)


def test_load__not_fetched_names_the_command(tmp_path):
    with pytest.raises(InputError, match=r"cnnengine data fetch fashion-mnist \[--from DIR\]"):
        load("fashion-mnist", cache_dir=tmp_path)


def test_load__damaged_cache_is_refused(tmp_path):
    entry, files = toy_mnist()
    registry = {entry.name: entry}
    source = write_gzip(tmp_path / "source", files)
    folder = fetch(entry.name, source_dir=source, cache_dir=tmp_path / "c", registry=registry)
    damaged = folder / "train-images-idx3-ubyte"
    damaged.write_bytes(altered(damaged.read_bytes()))
    with pytest.raises(InputError, match=r"altered content .*; fetch it again"):
        load(entry.name, cache_dir=tmp_path / "c", registry=registry)
    fetch(entry.name, source_dir=source, cache_dir=tmp_path / "c", registry=registry)
    assert len(load(entry.name, cache_dir=tmp_path / "c", registry=registry).train) == 30


def test_load__unknown_name_mentions_folders(tmp_path):
    with pytest.raises(InputError, match=r"unknown data set 'mnits'.*folder of images"):
        load("mnits")
    (tmp_path / "file").write_bytes(idx_bytes(pictures(1)))
    with pytest.raises(InputError, match="a file; a data set is a name or a folder"):
        load(tmp_path / "file")


def test_load__converts_size_and_channels(tmp_path):
    entry, files = toy_mnist()
    registry = {entry.name: entry}
    source = write_gzip(tmp_path / "source", files)
    fetch(entry.name, source_dir=source, cache_dir=tmp_path, registry=registry)
    plain = load(entry.name, cache_dir=tmp_path, registry=registry)
    rgb = load(entry.name, cache_dir=tmp_path, channels=3, registry=registry)
    assert (rgb.train.images == plain.train.images).all()
    assert rgb.train.image_shape == (28, 28, 3)
    large = load(entry.name, cache_dir=tmp_path, image_size=(16, 40), registry=registry)
    assert large.train.image_shape == (16, 40, 1)
    assert "16x40x1" in large.note
    assert len({plain.fingerprint, rgb.fingerprint, large.fingerprint}) == 3
    with pytest.raises(InputError, match="channels 2"):
        load(entry.name, cache_dir=tmp_path, channels=2, registry=registry)


def test_registry__entries_are_whole():
    assert set(REGISTRY) == {"fashion-mnist-mini", "fashion-mnist", "mnist", "cifar10"}
    for name, entry in REGISTRY.items():
        assert entry.name == name
        assert entry.description
        assert entry.licence
        assert entry.home.startswith("http")
        assert len(entry.classes) == len(entry.counts[0]) == len(entry.counts[1]) == 10
        for member in entry.members:
            assert len(bytes.fromhex(member.sha256)) == 32
        if not entry.embedded:
            test = entry.downloads[-1].members[-1]
            assert sum(entry.counts[1]) == 10_000
            assert test.size in (10_008, 30_730_000)
    assert cache_folder(REGISTRY["mnist"], None).name == "mnist"
