"""A local vLLM for one run: started, waited for, watched, and gone with the run.

In: ``vllm/MODEL``, the executable (IRR_VLLM) and flags (IRR_VLLM_ARGS) of the environment. Out: a
server on 127.0.0.1 that `irr.lm` asks like any other. vLLM itself is never imported here: it may
live in an environment of its own.
"""

from __future__ import annotations

from irr.vllm.server import PREFIX, VLLMServer, local_servers, prefix_cache_hits, start_vllm

__all__ = ["PREFIX", "VLLMServer", "local_servers", "prefix_cache_hits", "start_vllm"]
