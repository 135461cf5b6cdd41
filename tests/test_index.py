"""`LabelIndex` against brute force and FAISS; its files on disk and in the cache."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import HashEncoder
from numpy.typing import NDArray

import irr.index.label_index as index_module
from irr.errors import ConfigurationError, EncoderError, InputError, OutputError
from irr.index import LabelIndex, open_index
from irr.index.embedding import ALTERNATIVE, DESCRIPTION, NAME
from irr.labels import LabelSet
from irr.types import Label
from irr.vectors import label_hubs, unit_rows

OWNERS = np.array([0, 0, 1, 2, 2, 2, 3], np.int32)


def random(rows: int, dimensions: int = 8, seed: int = 0) -> NDArray[np.float64]:
    """Vectors of very different lengths."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((rows, dimensions)) * draw.uniform(0.01, 100, (rows, 1))


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def brute_scores(queries: NDArray[np.float64], rows: NDArray[np.float64]) -> list[list[float]]:
    return [
        [max(cosine(q, rows[r]) for r in np.flatnonzero(label == OWNERS)) for label in range(4)]
        for q in queries
    ]


def test_scores_equal_brute_force_over_several_names() -> None:
    rows, queries = random(7), random(5, seed=1)
    scores = LabelIndex(rows, OWNERS).scores(queries)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, brute_scores(queries, rows), atol=1e-6)


def test_rows_lose_the_handicap_of_their_kind() -> None:
    rows, queries = random(7), random(5, seed=1)
    kinds = [NAME, ALTERNATIVE, NAME, NAME, ALTERNATIVE, DESCRIPTION, NAME]
    index = LabelIndex(rows, OWNERS, kinds=kinds)
    taken = np.array([0, 0.3, 0, 0, 0.3, 0.5, 0])
    expected = [
        [
            max(cosine(q, rows[r]) - taken[r] for r in np.flatnonzero(label == OWNERS))
            for label in range(4)
        ]
        for q in queries
    ]
    handicaps = index.handicaps_of(0.3, 0.5)
    np.testing.assert_allclose(index.scores(queries, handicaps), expected, atol=1e-6)
    assert index.handicaps_of(0, 0) is None
    assert LabelIndex(random(3)).handicaps_of(0.3, 0.5) is None


def test_the_shortlist_takes_handicaps_and_labels_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    import irr.index.ann as ann

    monkeypatch.setattr(ann, "BUDGET", 1_500)
    owners = np.repeat(np.arange(2_500, dtype=np.int32), 2)
    index = LabelIndex(random(5_000, 12), owners, hubs=np.zeros(2_500), approximate=True)
    queries = random(3, 12, seed=9)
    handicaps = index.handicaps_of(0.3, 0)
    everything = index.scores(queries, handicaps)
    found, _ = index.near(queries, 5)
    missing = np.setdiff1d(np.arange(len(index)), found)[:4]
    positions, cosines = index.near(queries, 5, handicaps, missing)
    assert len(missing) == 4 and set(missing) <= set(positions.tolist())
    assert len(positions) < len(index)
    np.testing.assert_allclose(cosines, everything[:, positions], atol=1e-6)


@pytest.mark.parametrize("kinds", [[0] * 6, [0, 0, 0, 0, 0, 0, 3]])
def test_kinds_must_be_known_and_one_a_row(kinds: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="kinds must be 7 of"):
        LabelIndex(random(7), OWNERS, kinds=kinds)


def test_names_alternative_names_and_descriptions_are_rows(hash_encoder: HashEncoder) -> None:
    labels = LabelSet([Label("1", "a", ("b", "c"), "what a is"), Label("2", "d")])
    index = LabelIndex.build(labels, hash_encoder)
    assert index.kinds.tolist() == [NAME, ALTERNATIVE, ALTERNATIVE, DESCRIPTION, NAME]
    described = hash_encoder.encode(["a: what a is"])
    assert index.scores(described)[0, 0] == pytest.approx(1)


def test_search_equals_faiss_on_unnormalised_vectors() -> None:
    faiss = pytest.importorskip("faiss")
    rows, queries = random(500, 32), random(40, 32, seed=1)
    flat = faiss.IndexFlatIP(32)
    flat.add((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    expected_scores, expected = flat.search(units.astype(np.float32), 20)
    positions, scores = LabelIndex(rows).search(queries, 20)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_search_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    index = LabelIndex(random(50))
    whole = index.search(random(9, seed=2), 7)
    monkeypatch.setattr(index_module, "BLOCK", 100)
    for a, b in zip(index.search(random(9, seed=2), 7), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_equal_labels_come_by_position() -> None:
    # One-hot vectors: scores are exact, so ties are true ties.
    index = LabelIndex(np.eye(4)[[2, 0, 1, 0, 0, 3]] * 7)
    positions, scores = index.search(np.eye(4)[[0]], 5)
    assert positions.tolist() == [[1, 3, 4, 0, 2]]
    assert scores.tolist() == [[1, 1, 1, 0, 0]]
    assert index.search(np.eye(4)[[0]], 2)[0].tolist() == [[1, 3]]
    assert index.search(np.eye(4)[[0]], 99)[0].shape == (1, 6)


def test_hubs_are_computed_where_none_are_given() -> None:
    rows = random(7)
    expected = label_hubs(unit_rows(rows), OWNERS)
    np.testing.assert_array_equal(LabelIndex(rows, OWNERS).hubs, expected)
    assert LabelIndex(rows, OWNERS, hubs=[1, 2, 3, 4]).hubs.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite(bad: float) -> None:
    rows = random(7)
    rows[3, 2] = bad
    with pytest.raises(EncoderError, match="row 3 is not finite"):
        LabelIndex(rows)
    with pytest.raises(EncoderError, match="row 3 is not finite"):
        LabelIndex(random(7)).scores(rows)


@pytest.mark.parametrize("owners", [[0, 0, 2], [1, 1, 2], [0, 1, 0], [0, 1]])
def test_owners_that_do_not_fit(owners: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="owners must be"):
        LabelIndex(random(3), owners)


def test_other_misfits() -> None:
    with pytest.raises(EncoderError, match="7 dimensions, the index 8"):
        LabelIndex(random(3)).scores(random(1, 7))
    with pytest.raises(EncoderError, match="at least one vector"):
        LabelIndex(np.zeros((0, 3)))
    with pytest.raises(EncoderError, match="expected a matrix"):
        LabelIndex([1.0, 2.0])
    with pytest.raises(ConfigurationError, match="hubs must be 3"):
        LabelIndex(random(3), hubs=[0.0])
    with pytest.raises(ConfigurationError, match="k must be"):
        LabelIndex(random(3)).search(random(1), 0)


@pytest.mark.parametrize("mmap", [True, False])
def test_saved_index_is_the_same(tmp_path: Path, mmap: bool) -> None:
    index = LabelIndex(random(7), OWNERS, label_set="a", encoder="b")
    index.save(tmp_path / "deep" / "index")
    loaded = LabelIndex.load(tmp_path / "deep" / "index", mmap=mmap)
    assert (loaded.label_set, loaded.encoder, len(loaded)) == ("a", "b", 4)
    np.testing.assert_array_equal(loaded.hubs, index.hubs)
    np.testing.assert_array_equal(loaded.scores(random(3)), index.scores(random(3)))


def damage_header(**changes: object):  # type: ignore[no-untyped-def]
    def damage(folder: Path) -> None:
        header = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(header | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "index.json").unlink(), "cannot be read"),
        (lambda f: (f / "index.json").write_text("{"), "not the header"),
        (lambda f: (f / "index.json").write_text("[]"), "not the header"),
        (damage_header(version=99), "version 99, not 2"),
        (damage_header(rows="7"), "lacks 'rows'"),
        (damage_header(dimensions=9), r"vectors.npy: holds float32 \(7, 8\)"),
        (damage_header(labels=5), r"hubs.npy: holds float32 \(4,\)"),
        (lambda f: (f / "hubs.npy").unlink(), "cannot be read"),
        (lambda f: np.save(f / "hubs.npy", np.zeros(4, np.float32)), "changed since"),
        (lambda f: (f / "vectors.npy").write_bytes(b"junk"), "changed since"),
    ],
)
def test_damaged_folder(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    LabelIndex(random(7), OWNERS).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        LabelIndex.load(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    LabelIndex(random(7), OWNERS).save(tmp_path)
    np.save(tmp_path / "hubs.npy", np.array([{}] * 4), allow_pickle=True)
    with pytest.raises(InputError, match=r"hubs\.npy: cannot be read"):
        LabelIndex.load(tmp_path, verify=False)


MANY = np.repeat(np.arange(200, dtype=np.int32), 3)


def test_approximate_search_equals_exact_search() -> None:
    pytest.importorskip("faiss")
    rows, queries = random(600, 64), random(20, 64, seed=1)
    approximate = LabelIndex(rows, MANY, approximate=True)
    assert approximate.approximate
    exact = LabelIndex(rows, MANY).search(queries, 5)
    for ours, expected in zip(approximate.search(queries, 5), exact, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_near_is_as_exact_as_scores() -> None:
    pytest.importorskip("faiss")
    index = LabelIndex(random(600, 64), MANY, approximate=True)
    queries = random(3, 64, seed=2)
    positions, cosines = index.near(queries, 5)
    assert (np.diff(positions) > 0).all()
    np.testing.assert_allclose(cosines, index.scores(queries)[:, positions], atol=1e-6)


def test_hubs_of_an_approximate_index_are_near_the_exact_ones() -> None:
    pytest.importorskip("faiss")
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((60, 64))[draw.integers(60, size=2000)]
    rows += draw.standard_normal((2000, 64)) * draw.uniform(0.2, 0.8, (2000, 1))
    exact, ours = (LabelIndex(rows, approximate=kind).hubs for kind in (False, True))
    assert np.abs(exact - ours).mean() < 0.01 * exact.std() + 0.005
    assert np.corrcoef(exact, ours)[0, 1] > 0.99


def test_the_number_of_rows_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index_module, "APPROXIMATE_FROM", 600)
    assert LabelIndex(random(600), MANY).approximate
    assert not LabelIndex(random(599)).approximate
    assert not LabelIndex(random(600), MANY, approximate=False).approximate


def test_saved_approximate_index_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = LabelIndex(random(600, 64), MANY, approximate=True)
    index.save(tmp_path)
    loaded = LabelIndex.load(tmp_path)
    assert loaded.approximate
    for a, b in zip(loaded.near(random(3, 64), 5), index.near(random(3, 64), 5), strict=True):
        np.testing.assert_array_equal(a, b)
    LabelIndex(random(7), OWNERS).save(tmp_path)
    assert not LabelIndex.load(tmp_path).approximate
    assert not (tmp_path / "cells.faiss").exists()


def test_cells_that_were_changed_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    LabelIndex(random(600, 64), MANY, approximate=True).save(tmp_path)
    other = tmp_path / "other"
    LabelIndex(random(600, 64, seed=1), MANY, approximate=True).save(other)
    (tmp_path / "cells.faiss").write_bytes((other / "cells.faiss").read_bytes())
    with pytest.raises(InputError, match="changed since"):
        LabelIndex.load(tmp_path)


def test_save_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        LabelIndex(random(2)).save(tmp_path / "file")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


LABELS = LabelSet([Label("1", "use SQL", ("query data",)), Label("2", "Java"), Label("3", "care")])


class Counting:
    """Counts what is encoded; rows depend on the text alone."""

    name = "counting"
    fingerprint = "f1"
    dimensions = 8

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts, *, progress=None, **_):  # type: ignore[no-untyped-def]
        self.encoded += texts
        if progress:
            progress(1)
            progress(len(texts) - 1)
        return np.stack([random(1, seed=len(text))[0] for text in texts])


def test_open_index_builds_once(cache: Path) -> None:
    encoder = Counting()
    seen: list[tuple[int, int]] = []
    first = open_index(LABELS, encoder, progress=lambda done, of: seen.append((done, of)))
    assert encoder.encoded == ["use SQL", "query data", "Java", "care"]
    assert seen == [(1, 4), (4, 4)]
    assert first.owners.tolist() == [0, 0, 1, 2]
    second = open_index(LABELS, encoder)
    assert len(encoder.encoded) == 4
    np.testing.assert_array_equal(second.vectors, first.vectors)
    assert (second.label_set, second.encoder) == (LABELS.content_hash, "f1")
    encoder.fingerprint = "f2"
    open_index(LABELS, encoder)
    open_index(LabelSet([Label("1", "use SQL")]), encoder)
    assert len(encoder.encoded) == 9
    assert len([entry for entry in cache.iterdir() if not entry.name.startswith(".")]) == 3
    open_index(LABELS, encoder, cache=False)
    assert len(encoder.encoded) == 13


def test_damaged_cache_entry_is_replaced(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_index(LABELS, Counting())
    (entry,) = (entry for entry in cache.iterdir() if not entry.name.startswith("."))
    (entry / "hubs.npy").write_bytes(b"")
    encoder = Counting()
    open_index(LABELS, encoder)
    assert "it is built again" in caplog.text
    assert len(encoder.encoded) == 4
    open_index(LABELS, encoder)
    assert len(encoder.encoded) == 4


def test_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "file"))
    assert len(open_index(LABELS, Counting())) == 3
    assert "cannot write the cache" in caplog.text


def test_loading_is_quick(tmp_path: Path) -> None:
    LabelIndex(random(14_000, 384), hubs=np.zeros(14_000)).save(tmp_path)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        LabelIndex.load(tmp_path, verify=False)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03
