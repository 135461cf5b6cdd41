"""The command line and the environment of a local vLLM.

In: a model's name, IRR_VLLM and IRR_VLLM_ARGS. Out: what to run. The user's flags win over ours;
those that decide how irr reaches the server are ours alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from irr.errors import ConfigurationError

__all__ = ["environment_for", "find_executable", "serve_command", "user_flags"]

# Guesses and picks are short JSON: blanks between them would cost tokens and, now and then, the
# whole reply.
_SCHEMAS = '{"backend":"xgrammar","disable_any_whitespace":true}'
_OURS = ("--host", "--port", "--uds", "--api-key", "--root-path", "--ssl-keyfile", "--ssl-certfile")
# A server on the loopback needs no key, and none of these is its business.
_NOT_PASSED_ON = ("VLLM_API_KEY", "IRR_API_KEY", "OPENAI_API_KEY")
_OF_OUR_PYTHON = ("PYTHONPATH", "PYTHONHOME")


def find_executable() -> str:
    """The path of vllm: ``$IRR_VLLM``, else beside our Python, else on the PATH.

    Raises:
        ConfigurationError: there is none.
    """
    if chosen := os.environ.get("IRR_VLLM"):
        found = shutil.which(Path(chosen).expanduser())
        if found is None:
            raise ConfigurationError(
                f"IRR_VLLM={chosen}: no program can be run there: "
                "name the vllm of the environment that it is installed in"
            )
        return found
    found = shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")
    if found is None:
        raise ConfigurationError(
            "vLLM is not installed: pip install 'irr[vllm]' on a machine with a GPU; or install it "
            "in an environment of its own (it pins other versions) and set IRR_VLLM=/path/to/vllm; "
            "or run it elsewhere and give --api-base URL"
        )
    return found


def user_flags(more: Sequence[str] = ()) -> list[str]:
    """The flags of ``$IRR_VLLM_ARGS``, split as a shell does, and `more`.

    Raises:
        ConfigurationError: they cannot be split, or one decides how irr reaches the server.
    """
    told = os.environ.get("IRR_VLLM_ARGS", "")
    try:
        flags = [*shlex.split(told), *more]
    except ValueError as error:
        raise ConfigurationError(f"IRR_VLLM_ARGS={told}: {error}: close the quotation") from error
    taken = sorted(_names(flags).intersection(_OURS))
    if taken:
        raise ConfigurationError(
            f"IRR_VLLM_ARGS: {taken[0]} is set by irr: leave it out, or run 'vllm serve' yourself "
            "and give --api-base URL"
        )
    return flags


def serve_command(executable: str, model: str, port: int, flags: Sequence[str]) -> list[str]:
    """``vllm serve`` for `model` on 127.0.0.1:`port`. Prefix caching is on by vLLM's default."""
    command = [executable, "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    given = _names(flags)
    for name, *value in (
        ("--served-model-name", model),
        ("--structured-outputs-config", _SCHEMAS),
        # Millions of requests would be as many lines.
        ("--disable-uvicorn-access-log",),
    ):
        if name not in given:
            command += [name, *value]
    return [*command, *flags]


def environment_for(executable: str) -> dict[str, str]:
    """The environment of the server: ours, without keys and without reports to vLLM's makers."""
    dropped: tuple[str, ...] = _NOT_PASSED_ON
    if Path(executable).parent != Path(sys.executable).parent:
        dropped += _OF_OUR_PYTHON
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}


def _names(flags: Sequence[str]) -> set[str]:
    """The flags' names as vLLM reads them: ``--api_key=x`` and ``--a-b.c`` are what they mean."""
    names = (flag.partition("=")[0].partition(".")[0] for flag in flags if flag.startswith("--"))
    return {name.replace("_", "-") for name in names}
