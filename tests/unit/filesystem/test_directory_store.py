"""What only the directory store has to answer for: paths, crashes, and other files in its tree."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.errors import ObjectLost, StoreRefused, StoreUnavailable
from tusgate.core.model import ObjectKey, Part, UploadId
from tusgate.filesystem import DirectoryStore, durable
from tusgate.ports import Attributes, Body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.ports import Buffer

OURS = Attributes(UploadId("upload-that-is-ours-00"))
KEY = ObjectKey("folder/key")

WRITER = """
import asyncio, sys
from pathlib import Path
from awscrt.checksums import crc64nvme
from tusgate.filesystem import DirectoryStore
from tusgate.ports import Attributes, Body

async def write_for_ever(store, number):
    while True:
        data = b"%d " % number * 100_000
        await store.put_object(f"k/{number}", Body(len(data), crc64nvme(data), buffers=[data]), Attributes("u"))
        print(number, flush=True)
        number += 2

async def main():
    store = DirectoryStore(Path(sys.argv[1]))
    await asyncio.gather(write_for_ever(store, 0), write_for_ever(store, 1))

asyncio.run(main())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


def body_of(data: bytes) -> Body:
    return Body(len(data), crc64nvme(data), buffers=[data])


async def content(store: DirectoryStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(ObjectKey(key))])


def files_under(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file() and path.name != "identity"}


@pytest.mark.parametrize(
    "key", ["", "/", "/etc/passwd", "a//b", "a/", ".", "..", "../x", "a/../../x", "a/./b", "a\0b", "\ud800"]
)
async def test_a_key_that_is_no_path_inside_is_refused_everywhere(store: DirectoryStore, key: str) -> None:
    bad = ObjectKey(key)
    with pytest.raises(StoreRefused):
        await store.put_object(bad, body_of(b"x"), OURS)
    with pytest.raises(StoreRefused):
        await store.create_multipart(bad, OURS)
    with pytest.raises(StoreRefused):
        await store.find(bad, OURS.upload_id)
    with pytest.raises(StoreRefused):
        await content(store, bad)
    with pytest.raises(StoreRefused):
        await store.delete_objects([bad])


@given(key=st.text(alphabet=st.sampled_from("./\\~\0 a%2e\u2024\uff0f\u202e"), max_size=12))
async def test_no_key_leads_out_of_the_directory(key: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        outside = Path(directory)
        store = DirectoryStore(outside / "deep" / "root")
        try:
            await store.put_object(ObjectKey(key), body_of(b"mine"), OURS)
        except StoreRefused:
            assert files_under(outside) == set()
        else:
            (file,) = files_under(outside / "deep" / "root" / "objects")
            assert file.read_bytes() == b"mine"
            assert {path.relative_to(outside).parts[:2] for path in files_under(outside)} == {("deep", "root")}


@pytest.mark.parametrize("key", [f"folder/{'x' * 256}", "folder/key/below", "folder"])
async def test_a_key_that_the_filesystem_cannot_hold_is_refused(store: DirectoryStore, key: str) -> None:
    await store.put_object(KEY, body_of(b"x"), OURS)

    with pytest.raises(StoreRefused):
        await store.put_object(ObjectKey(key), body_of(b"y"), OURS)

    assert await content(store, KEY) == b"x"


async def test_a_file_that_somebody_put_there_is_not_ours(store: DirectoryStore, root: Path) -> None:
    await store.put_object(KEY, body_of(b"ours"), OURS)
    replacement = root / "replacement"
    replacement.write_bytes(b"them")

    replacement.rename(root / "objects" / KEY)

    assert await store.find(KEY, OURS.upload_id) is None


async def test_a_file_that_somebody_changed_is_not_proof(store: DirectoryStore, root: Path) -> None:
    await store.put_object(KEY, body_of(b"ours"), OURS)

    with (root / "objects" / KEY).open("ab") as file:
        file.write(b" and theirs")

    assert await store.find(KEY, OURS.upload_id) is None


async def test_a_copy_of_the_tree_is_known_by_its_bytes(store: DirectoryStore, root: Path, tmp_path: Path) -> None:
    """A backup that was restored has other inodes; what is in it must still be read, and nothing else for it."""
    data = b"x" * 300_000
    stored = await store.put_object(KEY, body_of(data), OURS)
    shutil.copytree(root, tmp_path / "copy")
    copied = DirectoryStore(tmp_path / "copy")

    for start in (0, 7, 0):
        assert b"".join([chunk async for chunk in copied.read(KEY, start, etag=stored.etag)]) == data[start:]
    (tmp_path / "copy" / "objects" / KEY).write_bytes(b"y" * len(data))
    with pytest.raises(ObjectLost):
        await anext(copied.read(KEY, 7, 1, etag=stored.etag))


async def test_objects_are_plain_files(store: DirectoryStore, root: Path) -> None:
    multipart_id = await store.create_multipart(KEY, OURS)
    etag = await store.put_part(KEY, multipart_id, 1, body_of(b"abc"))

    await store.complete_multipart(KEY, multipart_id, [Part(1, 0, 3, etag, crc64nvme(b"abc"))], crc64nvme(b"abc"))

    assert (root / "objects" / KEY).read_bytes() == b"abc"


async def test_what_was_deleted_or_aborted_leaves_nothing(store: DirectoryStore, root: Path) -> None:
    await store.put_object(KEY, body_of(b"one"), OURS)
    await store.put_object(KEY, body_of(b"two"), OURS)
    multipart_id = await store.create_multipart(KEY, OURS)
    await store.put_part(KEY, multipart_id, 1, body_of(b"abc"))
    with pytest.raises(StoreUnavailable):
        await store.put_part(KEY, multipart_id, 2, Body(3, 0, buffers=[b"abc"]))

    await store.abort_multipart(KEY, multipart_id)
    await store.delete_objects([KEY])

    assert files_under(root) == set()
    assert list((root / "objects").iterdir()) == []


async def test_directories_may_vanish_while_others_are_filled(store: DirectoryStore) -> None:
    async def come_and_go(number: int) -> None:
        key = ObjectKey(f"a/b/{number}")
        for _ in range(30):
            await store.put_object(key, body_of(b"x"), OURS)
            await store.delete_objects([key])

    await asyncio.gather(*(come_and_go(number) for number in range(4)))


def test_every_acknowledged_object_survives_a_kill_and_none_is_half_there(root: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(10)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += map(int, writer.stdout.read().split())
        writer.wait()
        writer.stdout.close()

        for path in (root / "objects" / "k").iterdir():
            assert path.read_bytes() == f"{path.name} ".encode() * 100_000
        for number in acknowledged:
            found = asyncio.run(DirectoryStore(root).find(ObjectKey(f"k/{number}"), UploadId("u")))
            assert found is not None
            assert found.size == len(f"{number} ") * 100_000


async def test_the_check_removes_what_a_dead_process_left_long_ago(store: DirectoryStore, root: Path) -> None:
    old, young = root / "staging" / "old", root / "staging" / "young"
    old.mkdir()
    (old / "upload").write_text("{}")
    young.write_text("in the making")
    os.utime(old, (0, 0))

    await store.check()

    assert [path.name for path in (root / "staging").iterdir()] == ["young"]


async def test_a_directory_that_cannot_be_written_fails_the_check(store: DirectoryStore, root: Path) -> None:
    (root / "staging").rmdir()
    (root / "staging").write_text("a file")

    with pytest.raises((StoreRefused, StoreUnavailable)):
        await store.check()


def test_buffers_are_written_whole_however_little_is_taken_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_three_bytes(descriptor: int, buffers: Sequence[bytes]) -> int:
        return os.write(descriptor, bytes(buffers[0])[:3])

    monkeypatch.setattr(os, "writev", write_three_bytes)
    buffers: list[Buffer] = [b"abcd", b"", memoryview(b"efghij"), b"k"] * 700

    with durable.staged(tmp_path) as (descriptor, path):
        durable.write_all(descriptor, buffers)
        assert path.read_bytes() == b"abcdefghijk" * 700


@pytest.mark.parametrize("error", [None, errno.EXDEV, errno.EOPNOTSUPP])
def test_files_are_appended_whether_or_not_the_kernel_can_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(error, "no")

    if error is not None:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))

    with durable.staged(tmp_path) as (descriptor, path), source.open("rb") as file:
        durable.append_file(file.fileno(), descriptor, 2_500_000)
        durable.append_file(file.fileno(), descriptor, 7)
        durable.append_file(file.fileno(), descriptor, 1_999_995, skip=1_000_003)

        data = source.read_bytes()
        assert path.read_bytes() == data[:2_500_000] + data[:7] + data[1_000_003:2_999_998]
        for size, skip in ((3_000_001, 0), (1, 3_000_000)):
            with pytest.raises(EOFError):
                durable.append_file(file.fileno(), descriptor, size, skip)


def unmount(root: Path, instead: str) -> None:
    root.rename(root.with_name("away"))
    if instead != "nothing":
        root.mkdir()
    if instead == "another tree":
        DirectoryStore(root)


def mount(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.with_name("away").rename(root)


@pytest.mark.parametrize("instead", ["nothing", "an empty directory", "another tree"])
async def test_a_volume_that_is_not_mounted_has_lost_nothing(store: DirectoryStore, root: Path, instead: str) -> None:
    """I1, I10, I20: what would be found lost or removed there is lying on the volume; it goes on when that is back."""
    await store.put_object(KEY, body_of(b"piece"), OURS)
    multipart_id = await store.create_multipart(KEY, OURS)
    unmount(root, instead)
    before = files_under(root)

    for call in (
        store.check,
        lambda: store.put_object(KEY, body_of(b"x"), OURS),
        lambda: store.create_multipart(KEY, OURS),
        lambda: store.put_part(KEY, multipart_id, 1, body_of(b"x")),
        lambda: store.complete_multipart(KEY, multipart_id, [Part(1, 0, 1, "", 0)], 0),
        lambda: store.multipart_exists(KEY, multipart_id),
        lambda: store.list_parts(KEY, multipart_id),
        lambda: store.list_multiparts(KEY),
        lambda: store.abort_multipart(KEY, multipart_id),
        lambda: store.find(KEY, OURS.upload_id),
        lambda: store.owner_of(KEY),
        lambda: store.delete_objects([KEY]),
        lambda: content(store, KEY),
    ):
        with pytest.raises(StoreUnavailable, match="mounted") as failed:
            await call()
        assert not isinstance(failed.value, ObjectLost)
    with pytest.raises(StoreUnavailable, match="mounted"):
        _ = [found async for found in store.list_objects()]
    assert files_under(root) == before

    mount(root)
    await store.check()
    await store.put_part(KEY, multipart_id, 1, body_of(b"x"))
    assert await content(store, KEY) == b"piece"


async def test_processes_that_share_a_directory_agree_on_its_name(root: Path) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(DirectoryStore, root) for _ in range(8)))

    await asyncio.gather(*(store.check() for store in stores))


async def test_a_filesystem_without_links_will_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    await DirectoryStore(root).check()
    await DirectoryStore(root).check()
