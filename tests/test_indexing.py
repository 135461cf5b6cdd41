"""Opening and making indexes: resumed after a kill, by two at once, of both kinds; `irr index`."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder

import irr.index.embedding as embedding
from irr.errors import IrrError
from irr.index import LabelIndex, open_index
from irr.index.opening import PROGRESS, index_folder, make_index
from irr.labels import LabelSet
from irr.types import Label

ROOT = Path(__file__).parents[1]
COUNT = 40
SLAB = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedding, "SLAB", SLAB)
    return tmp_path / "cache" / "indexes"


def label_set(count: int = COUNT) -> LabelSet:
    return LabelSet(
        Label(str(n), f"label {n} of kind {n % 7}", (f"alias {n}",) if n % 3 == 0 else ())
        for n in range(count)
    )


class Dying(HashEncoder):
    """Fails after some texts; counts those that it has encoded."""

    def __init__(self, lasts: int) -> None:
        self.lasts = lasts
        self.encoded: list[str] = []

    def encode(self, texts, *, progress=None, **_):  # type: ignore[no-untyped-def]
        if len(self.encoded) + len(texts) > self.lasts:
            raise KeyboardInterrupt
        self.encoded += texts
        return super().encode(texts, progress=progress)


def killed(labels: LabelSet, after: int) -> Path:
    """Make an index until the encoder dies; the folder that is left."""
    with pytest.raises(KeyboardInterrupt):
        make_index(labels, Dying(after))
    folder = index_folder(labels, HashEncoder())
    return folder.with_name(f".{folder.name}.partial")


def test_a_killed_build_goes_on_where_it_was(hash_encoder: HashEncoder) -> None:
    labels = label_set()
    killed(labels, 3 * SLAB)
    encoder, seen = Dying(1000), []
    index = make_index(labels, encoder, progress=lambda done, of: seen.append((done, of)))
    names = [name for label in labels for name in (label.name, *label.alternative_names)]
    assert encoder.encoded == names[3 * SLAB :]
    assert seen[0] == (4 * SLAB, len(names))
    fresh = LabelIndex.build(labels, hash_encoder)
    np.testing.assert_array_equal(index.vectors, fresh.vectors)
    np.testing.assert_array_equal(index.hubs, fresh.hubs)


def test_nothing_is_left_but_the_index(cache: Path) -> None:
    labels = label_set()
    killed(labels, SLAB)
    make_index(labels, Dying(1000))
    (entry,) = (entry for entry in cache.iterdir() if entry.suffix != ".lock")
    files = sorted(file.name for file in entry.iterdir())
    assert files == ["hubs.npy", "index.json", "kinds.npy", "owners.npy", "vectors.npy"]


def test_a_torn_slab_is_done_again(hash_encoder: HashEncoder) -> None:
    labels = label_set()
    partial = killed(labels, 2 * SLAB)
    with (partial / "vectors.npy").open("ab") as file:
        file.write(b"\x7f" * 999)
    index = make_index(labels, hash_encoder)
    np.testing.assert_array_equal(index.vectors, LabelIndex.build(labels, hash_encoder).vectors)


@pytest.mark.parametrize("progress", ["", "{}", '{"rows": 99}', '{"rows": -1}', '{"rows": "8"}'])
def test_progress_that_cannot_be_trusted_starts_anew(progress: str) -> None:
    labels = label_set()
    partial = killed(labels, 2 * SLAB)
    (partial / PROGRESS).write_text(progress)
    encoder = Dying(1000)
    make_index(labels, encoder)
    assert len(encoder.encoded) == sum(1 + len(label.alternative_names) for label in labels)


def test_vectors_that_are_shorter_than_told_start_anew() -> None:
    labels = label_set()
    partial = killed(labels, 3 * SLAB)
    os.truncate(partial / "vectors.npy", 2000)
    encoder = Dying(1000)
    make_index(labels, encoder)
    assert encoder.encoded[0] == labels[0].name


def test_an_index_killed_after_embedding_embeds_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = label_set()
    with monkeypatch.context() as patch:
        patch.setattr(LabelIndex, "save_beside_vectors", lambda *_: Dying(0).encode(["a"]))
        with pytest.raises(KeyboardInterrupt):
            make_index(labels, Dying(1000))
    encoder = Dying(0)
    assert len(make_index(labels, encoder)) == COUNT
    assert not encoder.encoded


BUILDER = """
import sys
sys.path[:0] = sys.argv[1:3]
import irr.index.embedding
irr.index.embedding.SLAB = 8
from test_indexing import HashEncoder, label_set
from irr.index.opening import make_index

class Slow(HashEncoder):
    def encode(self, texts, *, progress=None, **_):
        print("encoding", flush=True)
        sys.stdin.readline()
        return super().encode(texts, progress=progress)

print("made", len(make_index(label_set(), Slow())), flush=True)
"""


def builder() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(ROOT), str(ROOT / "tests")]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_embed_once(hash_encoder: HashEncoder) -> None:
    first = builder()
    assert first.stdout is not None and first.stdout.readline() == "encoding\n"
    second = builder()
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    told, _ = first.communicate("\n" * 20)
    assert told.endswith(f"made {COUNT}\n")
    assert second.communicate()[0] == f"made {COUNT}\n"
    index = make_index(label_set(), Dying(0))
    fresh = LabelIndex.build(label_set(), hash_encoder)
    np.testing.assert_array_equal(index.vectors, fresh.vectors)


@pytest.mark.skipif(os.name == "nt", reason="needs kill")
def test_a_process_that_is_killed_leaves_its_slabs_to_the_next() -> None:
    process = builder()
    assert process.stdin is not None and process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline() == "encoding\n"
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.stdout.readline() == "encoding\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    encoder = Dying(1000)
    make_index(label_set(), encoder)
    assert len(encoder.encoded) == 54 - 3 * SLAB


def test_partial_builds_that_nobody_wants_are_removed(cache: Path) -> None:
    left, young = cache / ".old.partial", cache / ".young.partial"
    for folder in (left, young):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    make_index(label_set(), Dying(1000))
    assert not left.exists()
    assert young.exists()


def test_the_kind_that_was_made_ahead_is_opened(hash_encoder: HashEncoder) -> None:
    pytest.importorskip("faiss")
    labels = label_set(400)
    assert not open_index(labels, hash_encoder).approximate
    assert open_index(labels, hash_encoder, approximate=True).approximate
    assert open_index(labels, hash_encoder).approximate
    assert not open_index(labels, hash_encoder, approximate=False).approximate
    assert not open_index(labels, hash_encoder).approximate


def test_the_other_kind_is_made_without_embedding_again(hash_encoder: HashEncoder) -> None:
    pytest.importorskip("faiss")
    labels = label_set(400)
    exact = open_index(labels, hash_encoder)
    other = open_index(labels, Dying(0), approximate=True)
    np.testing.assert_array_equal(other.vectors, exact.vectors)


def test_cells_of_another_index_are_made_again(
    hash_encoder: HashEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss")
    labels = label_set(400)
    open_index(labels, hash_encoder, approximate=True)
    (index_folder(labels, hash_encoder) / "cells.faiss").write_bytes(b"junk")
    assert len(open_index(labels, hash_encoder, approximate=True)) == 400
    assert "it is built again" in caplog.text


def test_making_fails_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_encoder: HashEncoder
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "file"))
    with pytest.raises((OSError, IrrError)):
        make_index(label_set(), hash_encoder)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    import irr.encoder
    from irr.indexing import main

    monkeypatch.setattr(irr.encoder, "load_encoder", lambda *_, **__: HashEncoder())
    status = main(list(arguments))
    told = capsys.readouterr()
    return status, told.out, told.err


def test_the_command_says_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.jsonl"
    rows = [{"name": f"label {n}", "alternative_names": [f"alias {n}"]} for n in range(300)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = command(monkeypatch, capsys, "--labels", str(file))
    found = re.fullmatch(
        r"300 labels, 600 rows, 64 dimensions, exact, ([\d,]+) bytes, [\d.]+ s: (.+)\n", out
    )
    assert status == 0 and found
    folder = Path(found[2])
    assert folder == index_folder(LabelSet.read(file), HashEncoder())
    size = sum(part.stat().st_size for part in folder.iterdir())
    assert int(found[1].replace(",", "")) == size > 600 * 64 * 4
    pytest.importorskip("faiss")
    _, out, _ = command(monkeypatch, capsys, "--labels", str(file), "--approximate")
    assert "64 dimensions, approximate" in out


def test_the_command_embeds_the_names_of_a_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.odd"
    german = {"de": {"name": "Hunde ausbilden"}}
    row = {"id": "1", "name": "train dogs", "language": "en", "translations": german}
    file.write_text(json.dumps(row) + "\n")
    options = ("--labels", str(file), "--labels-format", "jsonl", "--language", "de")
    status, out, _ = command(monkeypatch, capsys, *options)
    labels = LabelSet.read(file, "jsonl", language="de")
    assert labels.names == ["Hunde ausbilden"]
    assert status == 0 and out.endswith(f": {index_folder(labels, HashEncoder())}\n")
    assert index_folder(labels, HashEncoder()) != index_folder(
        LabelSet.read(file, "jsonl"), HashEncoder()
    )


def test_the_command_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = command(monkeypatch, capsys, "--labels", str(tmp_path / "none.txt"))
    assert status == 3 and "does not exist" in err
    (tmp_path / "few.txt").write_text("a\nb\n")
    few = ("--labels", str(tmp_path / "few.txt"), "--approximate")
    status, _, err = command(monkeypatch, capsys, *few)
    assert status == 2 and "2 vectors are too few" in err
    with pytest.raises(SystemExit):
        command(monkeypatch, capsys, *few, "--exact")


def test_the_benchmark_runs_on_few_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.syspath_prepend(str(ROOT / "eval" / "bench"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    bench = importlib.import_module("index")
    monkeypatch.setattr(bench, "load_encoder", HashEncoder)
    words = [f"w{n}" for n in range(40)]
    names = [f"{a} {b}" for a in words for b in words[:10] if a != b]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    texts = [{"text": " ".join(words[:20])}, {"text": " ".join(words[9:30])}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    files = ["--base", str(tmp_path / "labels.txt"), "--input", str(tmp_path / "texts.jsonl")]
    sizes = ["--labels", "1500", "--queries", "3", "7", "--folder", str(tmp_path), "--json"]
    assert bench.main([*files, *sizes]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["rows"]) == ["1,500 labels, 3 queries", "1,500 labels, 7 queries"]
    assert all(row["recall"] > 0.9 for row in (*told["rows"].values(), *told["real"].values()))
    assert {"build", "open", "RssAnon after open", "RssFile after 2 texts"} <= told[
        "largest"
    ].keys()
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["cache", "labels.txt", "texts.jsonl"]
