"""The CPU form of an encoder: one ONNX graph from tokens to unit vectors, in onnxruntime.

In: the folder of a sentence-transformers model. Out: an encoder that imports no torch. The graph
holds the whole pipeline (transformer, pooling, dense layers, normalisation). On first use it is
exported (`onnx_export`) into the cache, under the model's fingerprint. Where that fails, the model
runs in torch.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
)
from irr.encoder import Encoder, Progress, Vectors, encode_unique, first_line
from irr.errors import EncoderError
from irr.prefixes import Prefixes, Role

__all__ = [
    "GRAPH",
    "INPUTS",
    "SETTINGS",
    "TOKENIZER",
    "ExportSettings",
    "OnnxEncoder",
    "UnusableExportError",
    "load_onnx_encoder",
]

logger = logging.getLogger(__name__)

# Part of an entry's place: an entry of another form is neither read nor harmed.
FORM = "onnx-2"
GRAPH, TOKENIZER, SETTINGS = "model.onnx", "tokenizer.json", "encoder.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Attention takes memory by the square of the length: a batch of long texts is made smaller.
BATCH_TOKENS = 4096
# Tokens up to which texts are batched with texts of exactly their length; longer ones are padded
# to a multiple, so that some fit together.
UNPADDED = 32
PADDING = 8


class UnusableExportError(Exception):
    """An export is broken, or gives other vectors than torch; says why."""


@dataclass(frozen=True)
class ExportSettings:
    """What an export needs beside its graph. `digests` are the sha256 of its files by name."""

    inputs: tuple[str, ...]
    dimensions: int
    max_length: int | None
    pad_id: int
    pad_left: bool
    cut_left: bool
    digests: Mapping[str, str]


def load_onnx_encoder(
    name: str,
    folder: Path,
    fingerprint: str,
    prefixes: Prefixes,
    *,
    threads: int,
    batch_size: int,
) -> Encoder:
    """Load the model of `folder` from its export in the cache, exporting it where missing.

    An export that changed since it was made is made again. Where no export can be made or
    used, a warning is logged and the model runs in torch on the CPU.

    Raises:
        EncoderError: the folder holds no usable sentence encoder, or onnxruntime cannot be
            imported.
    """
    _import_runtime()
    entry = cache_root() / "encoders" / f"{fingerprint[:32]}-{FORM}"
    load = partial(OnnxEncoder, name, fingerprint, prefixes, threads=threads, batch_size=batch_size)
    if entry.exists():
        try:
            return load(entry)
        except UnusableExportError as error:
            logger.warning("the exported encoder %s is unusable, making it again: %s", entry, error)
            discard(entry)
    # Only here: a start that finds the export needs neither.
    from irr.onnx_export import export_encoder
    from irr.torch_encoder import TorchEncoder

    reference = TorchEncoder(name, folder, fingerprint, prefixes, "cpu", batch_size, threads)
    try:
        if store_folder("encoders"):
            with atomic_directory(entry) as draft:
                export_encoder(reference, draft)
            return load(entry)
        with TemporaryDirectory(prefix="irr-", ignore_cleanup_errors=True) as draft_name:
            export_encoder(reference, Path(draft_name))
            return load(Path(draft_name))
    except OSError as error:
        warn_unwritable(error)
    except UnusableExportError as error:
        logger.warning("encoder '%s' runs in torch, slower, for want of ONNX: %s", name, error)
    return reference


def _import_runtime() -> None:
    """Import what every export needs: where that fails, no export is to blame.

    Raises:
        EncoderError: it cannot be imported.
        KeyboardInterrupt: an interrupt came, which an extension module made an ImportError of.
    """
    try:
        import onnxruntime  # noqa: F401 - to have it
        import tokenizers  # noqa: F401
    except ImportError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or cause.__context__
        raise EncoderError(
            f"onnxruntime and tokenizers cannot be imported: {first_line(error)}: install them "
            "again, or give --device torch"
        ) from error


class OnnxEncoder:
    """An export in onnxruntime; see `irr.encoder.Encoder`.

    Batches run side by side, each on one thread: less idle waiting than several threads on
    one small batch.

    Raises:
        UnusableExportError: on construction, where the export is incomplete, changed or broken.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        prefixes: Prefixes,
        entry: Path,
        *,
        threads: int,
        batch_size: int,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.prefixes = prefixes
        self._threads = threads
        self._batch_size = batch_size
        # Bounds threads and memory also where several threads call.
        self._running = threading.BoundedSemaphore(threads)
        try:
            rows = json.loads((entry / SETTINGS).read_bytes())
            self._settings = ExportSettings(**rows | {"inputs": tuple(rows["inputs"])})
            if file_digests(entry, self._settings.digests) != self._settings.digests:
                raise ValueError("its files have changed")
            self._tokenizer = _read_tokenizer(entry / TOKENIZER, self._settings)
            self._session = _open_session(entry / GRAPH)
        except Exception as error:  # onnxruntime and tokenizers raise bare Exceptions
            raise UnusableExportError(f"{type(error).__name__}: {first_line(error)}") from error
        self.dimensions = self._settings.dimensions

    def encode(
        self, texts: Sequence[str], *, role: Role = "target", progress: Progress | None = None
    ) -> Vectors:
        """See `irr.encoder.Encoder.encode`."""
        return encode_unique(
            texts, self.dimensions, partial(self._encode_slab, role=role), progress
        )

    def _encode_slab(
        self, texts: list[str], role: Role
    ) -> Iterator[tuple[npt.NDArray[np.intp], Vectors]]:
        prefix = self.prefixes.of(role)
        tokens = self._tokenizer.encode_batch_fast([prefix + text for text in texts])
        lengths = np.array([len(row.ids) for row in tokens])
        batches = list(_batches(lengths, self._batch_size, self._threads))

        def run(batch: npt.NDArray[np.intp]) -> Vectors:
            # A batch of one would take another path through the kernels, and round otherwise.
            rows = [tokens[i] for i in batch] if len(batch) > 1 else [tokens[batch[0]]] * 2
            feed = _padded(rows, self._settings)
            with self._running:
                vectors = np.asarray(self._session.run(None, feed)[0], dtype=np.float32)
            return vectors[: len(batch)]

        if len(batches) == 1 or self._threads == 1:
            yield from ((batch, run(batch)) for batch in batches)
            return
        # Made for each call: a process forked from this one inherits no dead threads.
        with ThreadPoolExecutor(min(self._threads, len(batches)), "irr-encode") as pool:
            yield from zip(batches, pool.map(run, batches), strict=True)


def _batches(
    lengths: npt.NDArray[np.int_], size: int, threads: int
) -> Iterator[npt.NDArray[np.intp]]:
    """Batch positions of one padded length each, longest first so that no long batch comes last.

    At most `size` texts and `BATCH_TOKENS` tokens a batch (or one text), and a share for each of
    `threads` where texts are few.
    """
    widths = _width(lengths)
    order = np.argsort(-widths, kind="stable")
    falling = -widths[order]
    size = min(size, -(-len(order) // threads))
    start = 0
    while start < len(order):
        width = max(1, int(widths[order[start]]))
        alike = int(np.searchsorted(falling, -width, side="right")) - start
        stop = start + max(1, min(size, BATCH_TOKENS // width, alike))
        yield order[start:stop]
        start = stop


def _width(lengths: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    """The padded length of a text, which depends on nothing but the text.

    A text's vector is then the same to the last bit whatever other texts it is encoded with. Short
    texts, the many, are not padded at all.
    """
    return np.where(lengths <= UNPADDED, lengths, -(-lengths // PADDING) * PADDING)


def _padded(rows: Sequence[Any], settings: ExportSettings) -> dict[str, npt.NDArray[np.int64]]:
    """Fill the graph's inputs for tokenised `rows` of one padded length: (rows, length) each."""
    longest = max(1, *(len(row.ids) for row in rows))
    width = min(int(_width(np.array(longest))), max(longest, settings.max_length or 1 << 30))
    feed = {name: np.zeros((len(rows), width), dtype=np.int64) for name in INPUTS}
    feed["input_ids"] += settings.pad_id
    for i, row in enumerate(rows):
        span = slice(width - len(row.ids), width) if settings.pad_left else slice(len(row.ids))
        feed["input_ids"][i, span] = row.ids
        feed["attention_mask"][i, span] = 1
        feed["token_type_ids"][i, span] = row.type_ids
    return {name: feed[name] for name in settings.inputs}


def _read_tokenizer(path: Path, settings: ExportSettings) -> Any:
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
