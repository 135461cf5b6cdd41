"""The cache: entries come whole or not at all, and a cache that cannot be written does no harm."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irr import cache
from irr.errors import ConfigurationError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    cache._warn_once.cache_clear()
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def settle(path: Path) -> None:
    """Wait until `path` is old enough for its digest to be remembered."""
    while time.time_ns() - path.stat().st_ctime_ns <= cache.SETTLED_NS:
        time.sleep(0.1)


def test_the_root_is_the_environments_else_the_platforms(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.cache_root() == root
    monkeypatch.setenv("IRR_CACHE", "~/somewhere")
    assert cache.cache_root() == Path.home() / "somewhere"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("IRR_CACHE")
        else:
            monkeypatch.setenv("IRR_CACHE", unset)
        assert cache.cache_root().is_absolute()
        assert "irr" in cache.cache_root().parts


def test_a_root_in_an_unknown_home_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRR_CACHE", "~no-such-user/x")
    for ask in (cache.cache_root, cache.store_folder):
        with pytest.raises(ConfigurationError) as caught:
            ask()
        assert str(caught.value) == (
            "IRR_CACHE=~no-such-user/x: no home folder is known for '~no-such-user': "
            "write the path in full"
        )


def test_reading_the_root_makes_no_folder(root: Path) -> None:
    cache.cache_root()
    assert not root.exists()


def test_store_folder_is_made_and_left_clean(root: Path) -> None:
    assert cache.store_folder("a", "b") == root / "a" / "b"
    assert names(root / "a" / "b") == []


def test_an_unwritable_cache_is_one_warning_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert cache.store_folder("a") is None
        assert cache.store_folder("b") is None
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "\n" not in message
    assert str(tmp_path / "file" / "cache") in message
    assert "IRR_CACHE" in message


def test_atomic_directory_appears_whole(root: Path) -> None:
    with cache.atomic_directory(root / "entry") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_text("content")
        assert not (root / "entry").exists()
    assert (root / "entry" / "sub" / "file").read_text() == "content"
    assert names(root) == ["entry"]


def test_atomic_directory_leaves_nothing_after_an_exception(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), cache.atomic_directory(root / "entry") as draft:
        (draft / "file").write_text("half")
        raise ZeroDivisionError
    assert names(root) == []


def test_atomic_directory_keeps_the_winner_of_a_race(root: Path) -> None:
    with cache.atomic_directory(root / "entry") as ours:
        (ours / "file").write_text("ours")
        with cache.atomic_directory(root / "entry") as theirs:
            (theirs / "file").write_text("theirs")
    assert (root / "entry" / "file").read_text() == "theirs"
    assert names(root) == ["entry"]


def test_a_file_in_the_place_of_an_entry_is_an_error(root: Path) -> None:
    root.mkdir()
    (root / "entry").write_text("in the way")
    with pytest.raises(OSError), cache.atomic_directory(root / "entry") as draft:
        (draft / "file").write_text("ours")
    assert names(root) == ["entry"]


def test_a_killed_writer_leaves_no_entry(root: Path) -> None:
    program = (
        "import os; from pathlib import Path; from irr.cache import *\n"
        "with atomic_directory(cache_root() / 'entry') as draft:\n"
        "    (draft / 'file').write_text('half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert not (root / "entry").exists()
    with cache.atomic_directory(root / "entry") as draft:
        (draft / "file").write_text("whole")
    assert (root / "entry" / "file").read_text() == "whole"


def test_leftovers_go_after_a_day_and_not_before(root: Path) -> None:
    root.mkdir()
    for name, age in (("old", 2 * cache.STALE_SECONDS), ("young", 60)):
        folder = root / f".{name}.0.tmp"
        folder.mkdir()
        (folder / "file").write_text("half")
        os.utime(folder, (time.time() - age,) * 2)
    stale = root / ".file.0.tmp"
    stale.write_text("half")
    os.utime(stale, (time.time() - 2 * cache.STALE_SECONDS,) * 2)
    cache.write_atomic(root / "entry", b"new")
    assert names(root) == [".young.0.tmp", "entry"]


def test_write_atomic_replaces_and_keeps_the_old_on_failure(root: Path) -> None:
    cache.write_atomic(root / "file", b"old")
    cache.write_atomic(root / "file", b"new")
    assert (root / "file").read_bytes() == b"new"
    with pytest.raises(TypeError):
        cache.write_atomic(root / "file", "no bytes")  # type: ignore[arg-type]
    assert (root / "file").read_bytes() == b"new"
    assert names(root) == ["file"]


def test_discard_removes_a_folder_and_bears_a_missing_one(root: Path) -> None:
    (root / "entry").mkdir(parents=True)
    (root / "entry" / "file").write_text("x")
    cache.discard(root / "entry")
    cache.discard(root / "entry")
    assert names(root) == []


def test_digests_are_those_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"bb")
    (tmp_path / "a").write_bytes(b"aa")
    digests = cache.file_digests(tmp_path, ["b", "a"])
    assert list(digests) == ["a", "b"]
    assert digests == {n: hashlib.sha256(2 * n.encode()).hexdigest() for n in "ab"}
    with pytest.raises(FileNotFoundError):
        cache.file_digests(tmp_path, ["missing"])


def test_digests_are_remembered_until_the_file_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = cache.file_digests(tmp_path, ["weights"])
    assert not (root / "digests").exists()  # changed just now: not remembered
    settle(file)
    times = file.stat()
    assert cache.file_digests(tmp_path, ["weights"]) == first
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)  # to compute one would fail
        assert cache.file_digests(tmp_path, ["weights"]) == first
    file.write_bytes(b"two")  # of the same size, and its time of modification set back
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = cache.file_digests(tmp_path, ["weights"])["weights"]
    assert second == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"weights": 3}', b"\xff"])
def test_a_broken_memory_of_digests_is_ignored(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    expected = {"weights": hashlib.sha256(b"one").hexdigest()}
    memo = cache._memo_path(tmp_path)
    cache.write_atomic(memo, content)
    assert cache.file_digests(tmp_path, ["weights"]) == expected
