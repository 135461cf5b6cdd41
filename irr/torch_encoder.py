"""An encoder in sentence-transformers: on a GPU, and as the reference of its own ONNX export.

In: the folder of a sentence-transformers model. Out: a `TorchEncoder`. Loading one imports torch
and transformers, which takes seconds; importing this module does not.
"""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from irr.encoder import FOREIGN_CODE, Progress, Vectors, encode_unique, first_line
from irr.errors import EncoderError
from irr.prefixes import Prefixes, Role

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["TorchEncoder", "quiet_libraries"]


class TorchEncoder:
    """A model in sentence-transformers; see `irr.encoder.Encoder`.

    Args:
        device: one of torch's, or "torch" for its choice.
        threads: CPU threads; None for torch's choice.

    Raises:
        EncoderError: on construction, where the folder holds no usable sentence encoder.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        fingerprint: str,
        prefixes: Prefixes,
        device: str,
        batch_size: int,
        threads: int | None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.prefixes = prefixes
        self._batch_size = batch_size
        # Its tokenizer sets truncation and padding at each call, which threads must not share.
        self._lock = threading.Lock()
        try:
            self.model = _load(folder, None if device == "torch" else device, threads)
            self.dimensions = int(self._encode_batch(["any text"], "target").shape[1])
        except Exception as error:
            raise EncoderError(
                f"encoder '{name}': {folder} cannot be used as a sentence encoder: "
                f"{_problem(folder, error)}"
            ) from error

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
        yield np.arange(len(texts)), self._encode_batch(texts, role)

    def _encode_batch(self, texts: list[str], role: Role) -> Vectors:
        # Two methods, as some models have a module of its own for each part.
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        with self._lock:
            vectors = encode(
                texts,
                prompt=self.prefixes.of(role),
                batch_size=self._batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1)


def _load(folder: Path, device: str | None, threads: int | None) -> SentenceTransformer:
    with quiet_libraries():
        import torch
        from sentence_transformers import SentenceTransformer

        if threads:
            torch.set_num_threads(threads)
        model = SentenceTransformer(str(folder), device=device)
        _keep_to_positions(model)
        # Half-precision weights are widened: both forms of a model must give the same vectors.
        return model.float().eval()


def _keep_to_positions(model: SentenceTransformer) -> None:
    """Cut texts where the model's positions end.

    RoBERTa and its kin begin to count after the number of their padding, which no limit read from
    their configuration allows for: a text as long as that limit would fail.
    """
    embeddings = getattr(getattr(model[0], "auto_model", None), "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    if positions is not None and padding is not None:
        usable = positions.num_embeddings - padding - 1
        model.max_seq_length = min(model.max_seq_length or usable, usable)


def _problem(folder: Path, error: Exception) -> str:
    """What keeps a model from being loaded, in a line."""
    if "trust_remote_code" in str(error):
        return FOREIGN_CODE
    pieces, converted = (any(folder.rglob(name)) for name in ("*.model", "tokenizer.json"))
    if pieces and not converted and find_spec("sentencepiece") is None:
        return "its tokenizer is a SentencePiece file alone: pip install sentencepiece"
    return first_line(error)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the warnings, log lines and progress bars of torch and transformers."""
    loggers = [logging.getLogger(n) for n in ("torch", "transformers", "sentence_transformers")]
    levels = [log.level for log in loggers]
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
