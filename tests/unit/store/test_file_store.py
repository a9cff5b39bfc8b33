"""What the file store promises beyond the contract: order of syncs, and a disk that fills up."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pacs.errors import Exhausted, NodeError, Unreachable
from pacs.store.files import FileStore

PUT_ONE = """
import sys
from pathlib import Path
from pacs.store.files import FileStore

store = FileStore(Path(sys.argv[1]), free_bytes_min=0)
print("put begins", flush=True)
blob = store.put([b"object " * 1000])
print("put ended", blob.digest, flush=True)
"""

PUT_TOO_MUCH = """
import resource, sys
from pathlib import Path
from pacs.errors import Exhausted
from pacs.store.files import FileStore

store = FileStore(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
kept = store.put([bytes(99_000)])
try:
    store.put([b"x" * 200_000])
except Exhausted:
    print("refused", kept.digest)
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def run_python(programme: str, *arguments: object, before: tuple[str, ...] = ()) -> str:
    command = [*before, sys.executable, "-c", programme, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the system calls")
def test_file_and_folder_are_synced_before_put_returns(tmp_path: Path) -> None:
    """fsync(file) < rename < fsync(folder) < the answer; a power cut proves it, strace shows it."""
    log, store = tmp_path / "log", tmp_path / "store"
    calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,write"
    said = run_python(PUT_ONE, store, before=("strace", "-f", "-y", "-o", str(log), "-e", calls))
    digest = said.split()[-1]
    text = log.read_text()
    during = text[text.index("put begins") : text.index("put ended")]
    order = re.findall(r"(fsync|rename)\w*\((.*)", during)
    (sync, file), (rename, target), (sync_again, folder) = order
    assert (sync, rename, sync_again) == ("fsync", "rename", "fsync")
    assert f"{store}/incoming/" in file
    assert f'"{store}/{digest[:2]}/{digest}"' in target
    assert f"<{store}/{digest[:2]}>" in folder


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the system calls")
def test_new_folders_are_synced_into_their_parents(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "new" / "store"
    run_python(
        PUT_ONE, store, before=("strace", "-f", "-y", "-o", str(log), "-e", "trace=fsync,write")
    )
    before = log.read_text().partition("put begins")[0]
    synced = set(re.findall(r"fsync\(\d+<(.*?)>", before))
    assert synced >= {str(tmp_path), str(tmp_path / "new"), str(store)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S607 - wherever it is installed


def test_a_full_disk_refuses_the_object_and_keeps_the_others(small_disk: Path) -> None:
    store = FileStore(small_disk, free_bytes_min=0)
    kept = store.put([bytes(300_000)])
    with pytest.raises(Exhausted):
        store.put([b"x" * 2_000_000])
    assert [path.name for path in files_below(small_disk)] == [kept.digest]
    assert b"".join(store.read(kept.digest)) == bytes(300_000)
    store.put([b"there is room for this"])


def test_a_disk_that_runs_full_in_many_small_steps_keeps_what_it_promised(
    small_disk: Path,
) -> None:
    store = FileStore(small_disk, free_bytes_min=0)
    contents = {sha256(b"%d" % n * 3000): b"%d" % n * 3000 for n in range(1000)}
    promised: set[str] = set()
    with pytest.raises(Exhausted):
        promised.update(store.put([content]).digest for content in contents.values())
    assert len(promised) > 10
    assert set(store.digests()) == promised
    assert all(b"".join(store.read(digest)) == contents[digest] for digest in promised)
    assert {path.name for path in files_below(small_disk)} == promised


def test_a_file_that_may_not_grow_refuses_the_object_and_leaves_nothing(tmp_path: Path) -> None:
    answer = run_python(PUT_TOO_MUCH, tmp_path).split()
    assert answer[0] == "refused"
    assert [path.name for path in files_below(tmp_path)] == [answer[1]]


def test_below_the_low_water_mark_objects_are_refused_before_a_byte_is_written(
    tmp_path: Path,
) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = FileStore(tmp_path, free_bytes_min=free * 2)
    with pytest.raises(Exhausted):
        store.put([b"x"])
    with pytest.raises(Exhausted):
        store.check()
    assert files_below(tmp_path) == []


def test_a_folder_that_is_gone_is_unreachable(file_store: FileStore, tmp_path: Path) -> None:
    blob = file_store.put([b"x"])
    shutil.rmtree(tmp_path / "objects")
    with pytest.raises(Unreachable):
        file_store.put([b"y"])
    with pytest.raises(Unreachable):
        file_store.check()
    with pytest.raises(Unreachable):
        file_store.delete(blob.digest)
    with pytest.raises(Unreachable):
        list(file_store.digests())


def test_a_file_that_cannot_be_opened_is_an_error_of_ours(file_store: FileStore) -> None:
    """Here: more files open than the process may have."""
    blob = file_store.put([b"x"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
        with pytest.raises(Unreachable):
            file_store.read(blob.digest)
        with pytest.raises(NodeError):
            file_store.put([b"y"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(file_store.digests()) == [blob.digest]


def test_what_a_killed_process_left_half_written_is_no_object_and_is_swept(
    file_store: FileStore, tmp_path: Path
) -> None:
    blob = file_store.put([b"whole"])
    half = tmp_path / "objects" / "incoming" / "tmp-half"
    half.write_bytes(b"ha")
    assert list(file_store.digests()) == [blob.digest]
    assert file_store.tidy() == 0, "it may be on its way"
    os.utime(half, (0, 0))
    assert file_store.tidy() == 1
    assert [path.name for path in files_below(tmp_path)] == [blob.digest]


def test_strangers_files_are_no_objects(file_store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "objects" / "ab" / "notes.txt").write_text("not ours")
    (tmp_path / "objects" / "lost+found").mkdir()
    assert list(file_store.digests()) == []


def test_a_store_opens_again_on_what_it_kept(file_store: FileStore, tmp_path: Path) -> None:
    blob = file_store.put([b"kept"])
    assert b"".join(FileStore(tmp_path / "objects").read(blob.digest)) == b"kept"


def test_nobody_else_may_read_an_object(file_store: FileStore, tmp_path: Path) -> None:
    file_store.put([b"private"])
    (path,) = files_below(tmp_path)
    assert path.stat().st_mode & 0o077 == 0


def test_equal_objects_put_at_once_are_one_object(file_store: FileStore) -> None:
    content = os.urandom(300_000)
    with ThreadPoolExecutor(16) as pool:
        blobs = set(pool.map(lambda _: file_store.put([content]), range(16)))
    assert len(blobs) == 1
    assert list(file_store.digests()) == [blob.digest for blob in blobs]
    assert b"".join(file_store.read(blobs.pop().digest)) == content
