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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from irr.encoder import Progress, Vectors, encode_unique, first_line
from irr.errors import EncoderError

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
        device: str,
        batch_size: int,
        threads: int | None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._batch_size = batch_size
        # Its tokenizer sets truncation and padding at each call, which threads must not share.
        self._lock = threading.Lock()
        try:
            self.model = _load(folder, None if device == "torch" else device, threads)
            self.dimensions = int(self._encode_batch(["any text"]).shape[1])
        except Exception as error:
            raise EncoderError(
                f"encoder '{name}': {folder} cannot be used as a sentence encoder: "
                f"{first_line(error)}"
            ) from error

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """See `irr.encoder.Encoder.encode`."""
        return encode_unique(texts, self.dimensions, self._encode_slab, progress)

    def _encode_slab(self, texts: list[str]) -> Iterator[tuple[npt.NDArray[np.intp], Vectors]]:
        yield np.arange(len(texts)), self._encode_batch(texts)

    def _encode_batch(self, texts: list[str]) -> Vectors:
        with self._lock:
            vectors = self.model.encode(
                texts,
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
        # Half-precision weights are widened: both forms of a model must give the same vectors.
        return SentenceTransformer(str(folder), device=device).float().eval()


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
