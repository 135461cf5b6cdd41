"""What a vLLM log says: how far a start has come, and why a server ended.

In: the text of the log. Out: a phrase for a person. The wording is that of vLLM 0.32 and
of the libraries below it; a cause that is not known here is told in the log's own last words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PORT_TAKEN", "phase_of", "reason_of"]

_LONGEST = 300
_ELSEWHERE = "or give --api-base URL of a server elsewhere"
PORT_TAKEN = re.compile(r"\[Errno (?:98|48)\]|EADDRINUSE")

# A line of the log, and what is going on once it stands there.
_PHASES = [
    (r"Resolved architecture", "reading the configuration"),
    (r"Initializing a V\d LLM engine", "starting the engine"),
    (r"\.(?:safetensors|bin|gguf): +\d+%\|[^|]*\| *([^ /]+)/([^ /]+) ", "downloading ({} of {})"),
    (r"Fetching \d+ files: +\d+%\|[^|]*\| *(\d+)/(\d+) ", "downloading ({} of {} files)"),
    (r"Starting to load model", "loading weights"),
    (r"checkpoint shards: .*\| *(\d+)/(\d+) ", "loading weights ({} of {} shards)"),
    (r"Loading weights took|Model loading took", "weights loaded"),
    (r"Dynamo bytecode transform|Compiling a graph", "compiling"),
    (r"for vLLM's torch\.compile", "compiling"),
    (r"KV cache memory:|KV cache size:", "making the KV cache"),
    (r"Capturing .*CUDA graphs.*\| *(\d+)/(\d+) ", "capturing CUDA graphs ({} of {})"),
    (r"Warming up|init engine \(", "warming up"),
    (r"Starting vLLM (?:API )?server", "opening the server"),
]


@dataclass(frozen=True, slots=True)
class _Cause:
    """Texts that give a cause away, and what to tell about it: ``{0}`` is the first group."""

    pattern: str
    message: str


# The first that fits is told: those that name one thing stand before those that follow from many.
_CAUSES = [
    _Cause(
        r"error: (unrecognized arguments: .*|argument .*)",
        "{0}: mend IRR_VLLM_ARGS ('vllm serve --help=all' lists the flags)",
    ),
    _Cause(PORT_TAKEN.pattern, "another program took its port: run again"),
    _Cause(
        r"No space left on device",
        "the disk is full: make room, or name another place with HF_HOME and VLLM_CACHE_ROOT",
    ),
    _Cause(
        r"GatedRepoError|Cannot access gated repo|trying to access a gated repo|is a gated repos",
        "the model is gated: ask for access at https://huggingface.co/{model}, then set HF_TOKEN",
    ),
    _Cause(
        r"is not a valid model identifier|RepositoryNotFoundError|Repository Not Found"
        r"|Repo id must be in the form|Invalid repository ID or local directory"
        r"|is not a local folder or a valid repository name",
        "there is no such model: check the spelling (vllm/ORGANISATION/MODEL of the Hugging Face "
        "hub, or vllm/FOLDER), and set HF_TOKEN if it is a private one",
    ),
    _Cause(
        r"does not appear to have (?:a file|files) named (\S+?)\.? ",
        "the model has no file {0}: name a folder or repository of the transformers format",
    ),
    _Cause(
        r"Cannot find any model weights",
        "the model has no weights: download it again, or name another one",
    ),
    _Cause(
        r"Model architectures? (.+?) (?:(?:are|is) not supported|failed to be inspected|was supp)",
        "this vLLM does not know the architecture {0}: upgrade vLLM, or name another model",
    ),
    _Cause(
        r"does not recognize this architecture",
        "this transformers does not know the model's architecture: upgrade vLLM and transformers",
    ),
    _Cause(
        r"estimated maximum model length is (\d+)"
        r"|max seq len \(\d+\) is larger than the maximum number of tokens .*?\((\d+)\)",
        "the model's context does not fit the memory that is left for it: set "
        'IRR_VLLM_ARGS="--max-model-len {0}" or a smaller number',
    ),
    _Cause(
        r"(is greater than the derived max_model_len)",
        "--max-model-len {0}: lower it in IRR_VLLM_ARGS",
    ),
    _Cause(
        r"is less than desired (?:GPU|CPU) memory utilization",
        "other programs hold the memory it wants: end them, or set "
        'IRR_VLLM_ARGS="--gpu-memory-utilization 0.5" or another part of the whole',
    ),
    _Cause(
        r"OutOfMemoryError|CUDA out of memory|HIP out of memory|No available memory for the cache"
        r"|max seq len",
        "the memory of the GPU is too small for this model: set IRR_VLLM_ARGS="
        '"--max-model-len 8192", spread it with "--tensor-parallel-size 2", or name a smaller or '
        "quantized model",
    ),
    _Cause(
        r"Failed core proc\(s\): \{[^}]*: -9|died unexpectedly \(exit code: -9\)",
        "a process of it was killed, as the system does when main memory runs out: "
        "name a smaller model or make room",
    ),
    _Cause(
        r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
        "{0} GPUs are asked for and {1} are there: lower --tensor-parallel-size in IRR_VLLM_ARGS",
    ),
    _Cause(
        r"Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver"
        r"|no CUDA-capable device|libcuda\.so\S*: cannot open|driver version is insufficient",
        f"it finds no GPU: run where 'nvidia-smi' shows one, {_ELSEWHERE}",
    ),
    # Last: warnings of this kind also stand in the logs of machines without a network.
    _Cause(
        r"We couldn't connect to|LocalEntryNotFoundError|OfflineModeIsEnabled|Max retries exceeded"
        r"|[Nn]ame resolution|Name or service not known|specific connection error",
        "the model is not on this machine and the Hugging Face hub cannot be reached: download it "
        "where there is a network ('hf download {model}'), or give its folder as vllm/FOLDER",
    ),
]
# "(EngineCore pid=42) ERROR 11-20 10:46:24 [core.py:993] "
_PREFIX = re.compile(r"^(?:\([^)]* pid=\d+\) ?)?(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]*\] ?)?")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit|Interrupt)(?:: .+)?)$")
_DETAIL = re.compile(r"^ *(?:Value|Assertion) error, (.+)$")
# Errors that only say that there was one.
_HOLLOW = re.compile(
    r"Engine core initialization failed|EngineDeadError|validation errors? for|^SystemExit"
    r"|EngineCore encountered an issue|WorkerProc initialization failed"
)


def phase_of(log: str) -> str:
    """How far a start has come, such as ``loading weights (3 of 4 shards)``; "" at its beginning.

    >>> phase_of("Loading safetensors checkpoint shards:  75% Completed | 3/4 [00:02<00:00]")
    'loading weights (3 of 4 shards)'
    """
    for line in reversed(_lines(log)):
        for pattern, phase in _PHASES:
            if match := re.search(pattern, line):
                return phase.format(*match.groups())
    return ""


def reason_of(log: str, *, model: str, status: int) -> str:
    """Why a server ended, and how to mend it, in one line.

    Args:
        log: all it wrote, or the end of it.
        model: its name, for advice about it.
        status: its exit status, 128 + n for a signal n.
    """
    for cause in _CAUSES:
        if match := re.search(cause.pattern, log):
            found = [group for group in match.groups() if group]
            return cause.message.format(*found, model=model)
    if said := _last_error(log):
        return said
    if status > 128:
        killed = " (perhaps for want of main memory)" if status == 137 else ""
        return f"a signal ended it: {status - 128}{killed}"
    return f"it ended with exit status {status}"


def _last_error(log: str) -> str:
    """The last error of the log that says something."""
    for line in reversed(_lines(log)):
        bare = _PREFIX.sub("", line)
        match = _EXCEPTION.match(bare) or _DETAIL.match(bare)
        if match and not _HOLLOW.search(bare):
            said = " ".join(match[1].split())
            return said if len(said) <= _LONGEST else said[:_LONGEST] + "…"
    return ""


def _lines(log: str) -> list[str]:
    """Progress bars end their lines with a carriage return."""
    return log.replace("\r", "\n").splitlines()
