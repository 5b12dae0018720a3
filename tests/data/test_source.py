"""Shards behind commands and URLs are those of the folder; reads are retried; a cache stays below its limit."""

import errno
import functools
import http.server
import multiprocessing
import os
import pickle
import stat
import threading

import pytest
import torch

from intvit.commands import main
from intvit.data import source as module
from intvit.data.config import DataError
from intvit.data.loading import calibration_loader, train_loader, validation_loader
from intvit.data.shards import _open
from intvit.data.source import ShardSource
from tests.support.synthetic_shards import config, write_split

COUNTS = {"train": [11, 5, 14], "val": [6, 3]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "shards"
    for split, counts in COUNTS.items():
        write_split(root, split, counts)
    main(["shards", "index", str(root)])
    return root


@pytest.fixture
def server(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *arguments: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/{{shard}}"
        httpd.shutdown()


def batches(make, data):
    return list(make(data))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["pipe", "url", "cached folder", "cached pipe"])
def test_every_source_gives_the_batches_of_the_folder(folder, server, tmp_path, kind, workers):
    roots = {"pipe": f"pipe:cat {folder}/{{shard}}", "url": server, "cached folder": folder}
    root = roots.get(kind, roots["pipe"])
    options = {"workers": workers, "cache": str(tmp_path / "cache")} if "cached" in kind else {"workers": workers}
    for make in (train_loader, validation_loader, calibration_loader):
        expected, found = batches(make, config(folder)), batches(make, config(root, **options))
        assert all(torch.equal(a, b) for pair in zip(expected, found, strict=True) for a, b in zip(*pair, strict=True))
    if "cached" in kind:
        copies = list((tmp_path / "cache").glob("*/*.tar"))
        assert len(copies) == 5
        assert not list((tmp_path / "cache").glob("*/.*.tar.[!l]*"))


def test_a_command_that_fails_sometimes_is_tried_again(folder, tmp_path, caplog):
    script = tmp_path / "flaky.sh"  # fails twice for every file, once in its middle
    script.write_text(
        f"n=$(cat {tmp_path}/$1.n 2>/dev/null || echo 0); echo $((n + 1)) > {tmp_path}/$1.n\n"
        f"case $n in 0) exit 1;;\n"
        f"1) head -c $(($(wc -c < {folder}/$1) - 1)) {folder}/$1; [ $1 != index.json ];;\n"
        f"*) cat {folder}/$1;; esac\n"
    )
    flaky = config(f"pipe:sh {script} {{shard}}", retries=2)
    assert [labels.tolist() for _, labels in validation_loader(flaky)] == [
        labels.tolist() for _, labels in validation_loader(config(folder))
    ]
    assert "attempt 2 follows" in caplog.text
    assert "bytes came whose checksum is not that of the index" in caplog.text


def test_a_command_that_always_fails_is_named(folder):
    with pytest.raises(DataError, match=r"exit 3 .*index.json. where they lie as files|exit 3"):
        validation_loader(config("pipe:exit 3 # {shard}", retries=1))
    with pytest.raises(
        DataError, match=r"say where the shard's name goes, as in data.root='https://host/imagenet/{shard}'"
    ):
        validation_loader(config("https://host/imagenet"))
    with pytest.raises(DataError, match=r"shards behind a URL or command need index.json: `intvit shards index DIR`"):
        validation_loader(config(f"pipe:cat {folder}/no-{{shard}}", retries=0))


def test_a_shard_that_changed_behind_its_index_is_not_taken(folder, caplog):
    content = bytearray((folder / "val-000001.tar").read_bytes())
    content[600] ^= 1
    (folder / "val-000001.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"bytes came whose checksum is not that of the index"):
        list(validation_loader(config(f"pipe:cat {folder}/{{shard}}", retries=1)))


def test_a_cache_never_serves_an_older_version(folder, tmp_path):
    options = {"cache": str(tmp_path / "cache")}
    for root in (f"pipe:cat {folder}/{{shard}}", folder):
        before = list(validation_loader(config(root, **options)))
        write_split(folder, "val", [4, 5], classes=3)
        main(["shards", "index", str(folder)])
        module._shared.cache_clear()
        _open.cache_clear()
        after = list(validation_loader(config(root, **options)))
        assert [labels.tolist() for _, labels in after] == [[0, 1, 2, 0], [1, 2, 0, 1], [2]]
        write_split(folder, "val", [6, 3])
        main(["shards", "index", str(folder)])
        assert [labels.tolist() for _, labels in before] == [[0, 1, 2, 3], [4, 0, 1, 2], [3]]


def test_reads_are_retried_with_a_new_handle(folder, monkeypatch):
    source, failures = ShardSource(folder, retries=3), [OSError(5, "Input/output error")] * 3
    expected = (folder / "val-000000.tar").read_bytes()[512:600]
    pread = os.pread

    def failing(*arguments):
        if failures:
            raise failures.pop()
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", failing)
    assert source.read("val-000000.tar", 512, 88) == expected
    failures += [OSError(5, "Input/output error")] * 4
    with pytest.raises(OSError, match="Input/output error"):
        source.read("val-000000.tar", 512, 88)


def test_the_cache_stays_below_its_limit_and_open_files_go_on(folder, tmp_path):
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    limit = sum(sorted(sizes.values())[-2:])
    source = ShardSource(folder, str(tmp_path / "cache"), limit)
    for name in [*sizes, *sizes]:
        assert source.read(name, 0, sizes[name]) == (folder / name).read_bytes()
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*/*.tar")) <= limit
    again = ShardSource(folder, str(tmp_path / "cache"), limit)
    assert again.read("val-000000.tar", 0, 512) == source.read("val-000000.tar", 0, 512)


def _first_byte(source):
    return source.read("train-000000.tar", 0, 1)


def test_processes_that_want_one_shard_copy_it_once(folder, tmp_path):
    counter = tmp_path / "count"
    command = f"pipe:echo x >> {counter}; sleep 0.3; cat {folder}/{{shard}}"
    source = pickle.loads(pickle.dumps(ShardSource(command, str(tmp_path / "cache"))))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_first_byte, [source] * 4))) == 1
    assert counter.read_text() == "x\n"


@pytest.fixture
def umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_a_cache_is_readable_by_whom_the_umask_lets(folder, tmp_path, umask):
    source = ShardSource(folder, str(tmp_path / "cache"))
    staged = source.path("val-000000.tar")
    assert staged.stat().st_mode & 0o777 == 0o664
    assert staged.parent.stat().st_mode & 0o777 == 0o775


def refusing(function, *errors):
    """The function, or for a path below a cache one of the errors."""
    left = list(errors)

    def call(path, *arguments, **options):
        if "cache" in str(path) and left:
            raise left.pop(0)
        return function(path, *arguments, **options)

    return call


def test_another_users_lock_and_file_do(folder, tmp_path, monkeypatch):
    """Neither may be written: the lock is taken for reading, the time of use stays as it is."""
    ShardSource(folder, str(tmp_path / "cache")).path("val-000000.tar").unlink()  # its lock stays
    monkeypatch.setattr(os, "open", refusing(os.open, PermissionError(errno.EACCES, "Permission denied")))
    monkeypatch.setattr(os, "utime", refusing(os.utime, *[PermissionError(errno.EPERM, "Operation not permitted")] * 9))
    source = ShardSource(folder, str(tmp_path / "cache"))
    assert source.read("val-000000.tar", 0, 512) == (folder / "val-000000.tar").read_bytes()[:512]
    assert len(list((tmp_path / "cache").glob("*/*.tar"))) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_times_and_synced_folders_holds_a_cache(folder, tmp_path, monkeypatch, number):
    def refused(*arguments):
        raise OSError(number, os.strerror(number))

    def sync(file):
        return refused() if stat.S_ISDIR(os.fstat(file).st_mode) and number != errno.ENOLCK else original(file)

    original = os.fsync
    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(os, "fsync", sync)
    source = ShardSource(folder, str(tmp_path / "cache"), retries=0)
    assert source.path("val-000000.tar").read_bytes() == (folder / "val-000000.tar").read_bytes()


@pytest.mark.parametrize("remote", [False, True])
def test_what_a_read_only_cache_lacks_is_read_without_it(folder, tmp_path, monkeypatch, caplog, remote):
    root = f"pipe:cat {folder}/{{shard}}" if remote else folder
    held = ShardSource(root, str(tmp_path / "cache")).path("val-000000.tar")
    monkeypatch.setattr(os, "open", refusing(os.open, *[OSError(errno.EROFS, "Read-only file system")] * 9))
    source = ShardSource(root, str(tmp_path / "cache"), retries=0)
    assert source.path("val-000000.tar") == held
    assert source.path("val-000001.tar").read_bytes() == (folder / "val-000001.tar").read_bytes()
    assert "Read-only file system" in caplog.text
    assert len(list((tmp_path / "cache").glob("*/*.tar"))) == 1


def test_a_cache_serves_its_root_however_that_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    roots = (str(folder), f"{folder}/", folder.name, f"~/{folder.name}")
    paths = {ShardSource(root, cache).path("val-000000.tar").resolve() for root in roots for cache in ("~/c", "c")}
    assert len(paths) == 1


def test_a_cache_of_another_machine_is_not_made_where_a_run_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for cache, kept in ((str(tmp_path / "here"), True), ("here", False), (str(tmp_path / "scratch"), False)):
        data = config(tmp_path, cache=cache)
        assert (module.without_absent_cache(data).cache == cache) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_temporary_cache_goes_at_exit(folder):
    import subprocess
    import sys
    from pathlib import Path

    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        "from tests.support.synthetic_shards import config; "
        "from intvit.data.loading import validation_loader; from intvit.data.shards import open_split; "
        f"data = config('pipe:cat {folder}/{{shard}}', workers=2); list(validation_loader(data)); "
        "print(open_split(data, 'val').source.cache)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert not os.path.exists(done.stdout.strip())
