"""The CPU form of an encoder: one ONNX graph from tokens to unit vectors, in onnxruntime.

In: the folder of a sentence-transformers model. Out: an encoder that imports no torch. The
graph holds the whole pipeline (transformer, pooling, dense layers, normalisation). Torch
exports it on first use into the cache, under the model's fingerprint; the vectors of probe
texts must equal torch's before it is kept. Where that fails, the model runs in torch.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.cache import (
    atomic_directory,
    cache_root,
    discard,
    file_digests,
    store_folder,
    warn_unwritable,
    write_atomic,
)
from irr.encoder import Encoder, Progress, TorchEncoder, Vectors, encode_unique, quiet_libraries

__all__ = ["OnnxEncoder", "load_onnx_encoder"]

logger = logging.getLogger(__name__)

# Part of an entry's place: an entry of another form is neither read nor harmed.
FORM = "onnx-1"
GRAPH, WEIGHTS, TOKENIZER, SETTINGS = "model.onnx", "weights.bin", "tokenizer.json", "encoder.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Attention takes memory by the square of the length: a batch of long texts is made smaller.
BATCH_TOKENS = 4096
TOLERANCE = 1e-4
PROBES = (
    "",
    " ",
    "a",
    "Perl",
    "C++, C# and Node.js",
    "manage musical staff",
    "  UPPER and lower, with   spaces\tand\nlines  ",
    "The applicant has five years of experience with databases; reporting is a plus.",
    "Überprüfung der Qualität, naïve café, Ελληνικά, русский язык",
    "机器学习和数据分析の経験が必要です",
    "مهندس برمجيات",
    "🙂👩‍💻 emoji 🚀",
    "e\u0301 combining, \u200bzero width, \ufffd replaced",
    "[CLS] [SEP] <s> </s> <mask>",
    "word " * 60,
    "The quick brown fox jumps over the lazy dog near the river bank. " * 60,
)


class _UnusableError(Exception):
    """An export is broken, or gives other vectors than torch; says why."""


@dataclass(frozen=True)
class _Settings:
    """What an export needs beside its graph. `digests` are the sha256 of its files by name."""

    inputs: tuple[str, ...]
    dimensions: int
    max_length: int | None
    pad_id: int
    pad_left: bool
    cut_left: bool
    prompt: str
    digests: Mapping[str, str]


def load_onnx_encoder(
    name: str, folder: Path, fingerprint: str, *, threads: int, batch_size: int
) -> Encoder:
    """Load the model of `folder` from its export in the cache, exporting it where missing.

    An export that changed since it was made is made again. Where no export can be made or
    used, a warning is logged and the model runs in torch on the CPU.

    Raises:
        EncoderError: the folder holds no usable sentence encoder.
    """
    entry = cache_root() / "encoders" / f"{fingerprint[:32]}-{FORM}"
    load = partial(OnnxEncoder, name, fingerprint, threads=threads, batch_size=batch_size)
    if entry.exists():
        try:
            return load(entry)
        except _UnusableError as error:
            logger.warning("the exported encoder %s is unusable, making it again: %s", entry, error)
            discard(entry)
    reference = TorchEncoder(name, folder, fingerprint, "cpu", batch_size, threads)
    try:
        if store_folder("encoders"):
            with atomic_directory(entry) as draft:
                _export_verified(reference, draft)
            return load(entry)
        with TemporaryDirectory(prefix="irr-", ignore_cleanup_errors=True) as draft_name:
            _export_verified(reference, Path(draft_name))
            return load(Path(draft_name))
    except OSError as error:
        warn_unwritable(error)
    except _UnusableError as error:
        logger.warning("encoder '%s' runs in torch, slower, for want of ONNX: %s", name, error)
    return reference


class OnnxEncoder:
    """An export in onnxruntime; see `Encoder`.

    Batches run side by side, each on one thread: less idle waiting than several threads on
    one small batch.

    Raises:
        _UnusableError: on construction, where the export is incomplete, changed or broken.
    """

    def __init__(
        self, name: str, fingerprint: str, entry: Path, *, threads: int, batch_size: int
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._threads = threads
        self._batch_size = batch_size
        # Bounds threads and memory also where several threads call.
        self._running = threading.BoundedSemaphore(threads)
        try:
            rows = json.loads((entry / SETTINGS).read_bytes())
            self._settings = _Settings(**rows | {"inputs": tuple(rows["inputs"])})
            if file_digests(entry, self._settings.digests) != self._settings.digests:
                raise ValueError("its files have changed")
            self._tokenizer = _read_tokenizer(entry / TOKENIZER, self._settings)
            self._session = _open_session(entry / GRAPH)
        except Exception as error:  # onnxruntime and tokenizers raise bare Exceptions
            raise _UnusableError(f"{type(error).__name__}: {_first_line(error)}") from error
        self.dimensions = self._settings.dimensions

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """See `Encoder.encode`."""
        return encode_unique(texts, self.dimensions, self._encode_slab, progress)

    def _encode_slab(self, texts: list[str]) -> Iterator[tuple[npt.NDArray[np.intp], Vectors]]:
        tokens = self._tokenizer.encode_batch_fast([self._settings.prompt + t for t in texts])
        lengths = np.array([len(row.ids) for row in tokens])
        batches = list(_batches(lengths, self._batch_size, self._threads))

        def run(batch: npt.NDArray[np.intp]) -> Vectors:
            feed = _padded([tokens[i] for i in batch], self._settings)
            with self._running:
                return np.asarray(self._session.run(None, feed)[0], dtype=np.float32)

        if len(batches) == 1 or self._threads == 1:
            yield from ((batch, run(batch)) for batch in batches)
            return
        # Made for each call: a process forked from this one inherits no dead threads.
        with ThreadPoolExecutor(min(self._threads, len(batches)), "irr-encode") as pool:
            yield from zip(batches, pool.map(run, batches), strict=True)


def _batches(
    lengths: npt.NDArray[np.int_], size: int, threads: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Positions of like lengths together, longest first so that no long batch comes last.

    At most `size` texts and `BATCH_TOKENS` tokens a batch (or one text), none shorter than half
    of the longest, and a share for each of `threads` where texts are few.
    """
    order = np.argsort(-lengths, kind="stable")
    falling = -lengths[order]
    size = min(size, -(-len(order) // threads))
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        alike = int(np.searchsorted(falling, -(longest // 2), side="right")) - start
        stop = start + max(1, min(size, BATCH_TOKENS // longest, alike))
        yield order[start:stop]
        start = stop


def _padded(rows: Sequence[Any], settings: _Settings) -> dict[str, npt.NDArray[np.int64]]:
    """The graph's inputs for tokenised `rows`: (rows, longest) each."""
    width = max(1, *(len(row.ids) for row in rows))
    feed = {name: np.zeros((len(rows), width), dtype=np.int64) for name in INPUTS}
    feed["input_ids"] += settings.pad_id
    for i, row in enumerate(rows):
        span = slice(width - len(row.ids), width) if settings.pad_left else slice(len(row.ids))
        feed["input_ids"][i, span] = row.ids
        feed["attention_mask"][i, span] = 1
        feed["token_type_ids"][i, span] = row.type_ids
    return {name: feed[name] for name in settings.inputs}


def _read_tokenizer(path: Path, settings: _Settings) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if settings.max_length:
        side = "left" if settings.cut_left else "right"
        tokenizer.enable_truncation(settings.max_length, direction=side)
    return tokenizer


def _open_session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(
        str(graph), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _export_verified(reference: TorchEncoder, folder: Path) -> None:
    """Write the export of `reference` into the empty `folder`.

    Raises:
        _UnusableError: no exporter makes one whose vectors equal the reference's.
        OSError: it cannot be written.
    """
    # The two long ones apart: torch would pad all the others to their length.
    expected = np.vstack([reference.encode(PROBES[:-2]), reference.encode(PROBES[-2:])])
    problems = []
    # The older exporter takes a second; the newer takes six and follows the data's shape better.
    for dynamo in (False, True):
        try:
            _export(reference, folder, dynamo=dynamo)
            _verify(reference, folder, expected)
            return
        except OSError:
            raise
        except Exception as error:  # exporters raise whatever their parts do
            problems.append(_first_line(error))
            logger.debug("export with dynamo=%s failed", dynamo, exc_info=True)
    raise _UnusableError("; ".join(dict.fromkeys(problems)))


def _verify(reference: TorchEncoder, folder: Path, expected: Vectors) -> None:
    export = OnnxEncoder(reference.name, reference.fingerprint, folder, threads=1, batch_size=4)
    alone = [export.encode([probe]) for probe in PROBES[-2:]]
    for vectors, wanted in ((export.encode(PROBES), expected), (np.vstack(alone), expected[-2:])):
        difference = float(np.abs(vectors - wanted).max())
        if not difference <= TOLERANCE:  # also where it is not a number
            raise _UnusableError(f"its vectors differ from torch's by {difference:.2g}")


def _export(reference: TorchEncoder, folder: Path, *, dynamo: bool) -> None:
    """Write graph, weights, tokenizer and settings of `reference` into `folder`."""
    model = reference.model
    tokenizer = model.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    # Two lengths, so that the padding is traced.
    preprocess = getattr(model, "preprocess", model.tokenize)
    features = {
        name: value.cpu()
        for name, value in preprocess(["two texts of unlike lengths", "one"]).items()
        if hasattr(value, "shape")
    }
    if not features or not set(features) <= set(INPUTS):
        raise _UnusableError(f"it takes other inputs than tokens: {sorted(features)}")
    inputs = tuple(name for name in INPUTS if name in features)
    _export_graph(model, [features[name] for name in inputs], inputs, folder, dynamo=dynamo)
    limit = model.max_seq_length
    settings = _Settings(
        inputs=inputs,
        dimensions=reference.dimensions,
        # Transformers writes "no limit" as 1e30.
        max_length=int(limit) if limit and limit < 1e6 else None,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_left=tokenizer.padding_side == "left",
        cut_left=tokenizer.truncation_side == "left",
        prompt=prompt or "",
        digests=file_digests(folder, [f.name for f in folder.iterdir() if f.name != SETTINGS]),
    )
    write_atomic(folder / SETTINGS, json.dumps(asdict(settings), indent=1).encode())


def _export_graph(
    model: Any, example: Sequence[Any], inputs: Sequence[str], folder: Path, *, dynamo: bool
) -> None:
    with quiet_libraries(), TemporaryDirectory(dir=folder) as scratch:
        import onnx
        import torch

        class Pipeline(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
                vectors = self.model(dict(zip(inputs, tokens, strict=True)))["sentence_embedding"]
                return torch.nn.functional.normalize(vectors, dim=1)

        sizes: dict[str, Any]
        if dynamo:
            axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            sizes = {"dynamic_shapes": (tuple(axes for _ in inputs),)}
        else:
            dynamic = {name: {0: "batch", 1: "length"} for name in inputs}
            sizes = {"dynamic_axes": dynamic | {"vectors": {0: "batch"}}, "opset_version": 17}
        path = str(Path(scratch, GRAPH))
        with torch.no_grad():
            torch.onnx.export(
                Pipeline().eval(),
                tuple(example),
                path,
                input_names=list(inputs),
                output_names=["vectors"],
                dynamo=dynamo,
                verbose=False,
                **sizes,
            )
        (folder / WEIGHTS).unlink(missing_ok=True)  # onnx appends
        # Weights in a file of their own are mapped, not parsed: a third off the start.
        onnx.save_model(
            onnx.load(path),
            str(folder / GRAPH),
            save_as_external_data=True,
            location=WEIGHTS,
            size_threshold=4096,
        )
        if (folder / WEIGHTS).exists():  # onnx writes it for its owner alone
            (folder / WEIGHTS).chmod((folder / GRAPH).stat().st_mode)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
