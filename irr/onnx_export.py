"""The ONNX form of an encoder: made by torch, kept only where it gives torch's vectors.

In: a model in torch. Out: a folder with its graph, weights, tokenizer and settings, all that
`OnnxEncoder` needs. Imported on a model's first use only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from irr.cache import file_digests, write_atomic
from irr.encoder import Vectors, first_line
from irr.onnx_encoder import (
    GRAPH,
    INPUTS,
    SETTINGS,
    TOKENIZER,
    ExportSettings,
    OnnxEncoder,
    UnusableExportError,
)
from irr.prefixes import Prefixes, Role
from irr.torch_encoder import TorchEncoder, quiet_libraries

__all__ = ["export_encoder"]

logger = logging.getLogger(__name__)

WEIGHTS = "weights.bin"
TOLERANCE = 1e-4
# Both, also where their prefixes are the same: some models have a module of its own for each.
ROLES: tuple[Role, ...] = ("target", "query")
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


def export_encoder(reference: TorchEncoder, folder: Path) -> None:
    """Write the export of `reference` into the empty `folder`.

    Raises:
        UnusableExportError: no exporter makes one whose vectors equal the reference's.
        OSError: it cannot be written.
    """
    if reference.prefixes != Prefixes() and any(
        getattr(module, "include_prompt", True) is False for module in reference.model.modules()
    ):
        # How long a prompt is would have to be an input of the graph.
        raise UnusableExportError("its pooling leaves out the prompts (include_prompt)")
    # The two long ones apart: torch would pad all the others to their length.
    expected = {
        role: np.vstack(
            [reference.encode(PROBES[:-2], role=role), reference.encode(PROBES[-2:], role=role)]
        )
        for role in ROLES
    }
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
            problems.append(first_line(error))
            logger.debug("export with dynamo=%s failed", dynamo, exc_info=True)
    raise UnusableExportError("; ".join(dict.fromkeys(problems)))


def _verify(reference: TorchEncoder, folder: Path, expected: dict[Role, Vectors]) -> None:
    names = reference.name, reference.fingerprint, reference.prefixes
    export = OnnxEncoder(*names, folder, threads=1, batch_size=4)
    for role, wanted in expected.items():
        alone = np.vstack([export.encode([probe], role=role) for probe in PROBES[-2:]])
        together = export.encode(PROBES, role=role)
        difference = float(np.abs(np.vstack([together - wanted, alone - wanted[-2:]])).max())
        if not difference <= TOLERANCE:  # also where it is not a number
            raise UnusableExportError(f"its vectors differ from torch's by {difference:.2g}")


def _export(reference: TorchEncoder, folder: Path, *, dynamo: bool) -> None:
    """Write graph, weights, tokenizer and settings of `reference` into `folder`."""
    model = reference.model
    tokenizer = model.tokenizer
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    # Two lengths, so that the padding is traced.
    preprocess = getattr(model, "preprocess", model.tokenize)
    features = {
        name: value.cpu()
        for name, value in preprocess(["two texts of unlike lengths", "one"]).items()
        if hasattr(value, "shape")
    }
    if not features or not set(features) <= set(INPUTS):
        raise UnusableExportError(f"it takes other inputs than tokens: {sorted(features)}")
    inputs = tuple(name for name in INPUTS if name in features)
    _export_graph(model, [features[name] for name in inputs], inputs, folder, dynamo=dynamo)
    limit = model.max_seq_length
    settings = ExportSettings(
        inputs=inputs,
        dimensions=reference.dimensions,
        # Transformers writes "no limit" as 1e30.
        max_length=int(limit) if limit and limit < 1e6 else None,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_left=tokenizer.padding_side == "left",
        cut_left=tokenizer.truncation_side == "left",
        digests=file_digests(folder, [f.name for f in folder.iterdir() if f.name != SETTINGS]),
    )
    write_atomic(folder / SETTINGS, json.dumps(asdict(settings), indent=1).encode())


def _export_graph(
    model: Any, example: Sequence[Any], inputs: Sequence[str], folder: Path, *, dynamo: bool
) -> None:
    """Write the graph of `model`, from `inputs` to unit vectors, and its weights."""
    with quiet_libraries(), TemporaryDirectory(dir=folder) as scratch:
        import onnx

        whole = Path(scratch, GRAPH)
        _trace(model, example, inputs, whole, dynamo=dynamo)
        (folder / WEIGHTS).unlink(missing_ok=True)  # onnx appends
        # Weights in a file of their own are mapped, not parsed: a third off the start.
        onnx.save_model(
            onnx.load(str(whole)),
            str(folder / GRAPH),
            save_as_external_data=True,
            location=WEIGHTS,
            size_threshold=4096,
        )
        if (folder / WEIGHTS).exists():  # onnx writes it for its owner alone
            (folder / WEIGHTS).chmod((folder / GRAPH).stat().st_mode)


def _trace(
    model: Any, example: Sequence[Any], inputs: Sequence[str], path: Path, *, dynamo: bool
) -> None:
    """Write the graph of `model` with its weights in it, batch and length left open."""
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
    with torch.no_grad():
        torch.onnx.export(
            Pipeline().eval(),
            tuple(example),
            str(path),
            input_names=list(inputs),
            output_names=["vectors"],
            dynamo=dynamo,
            verbose=False,
            **sizes,
        )
