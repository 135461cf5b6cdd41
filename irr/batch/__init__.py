"""OpenAI's Batch format: the requests of a run as files, and the answers back.

In: what `irr predict` takes. Out: files of requests for OpenAI's Batch API or vLLM's run-batch;
their answers become the kept replies of the run, which `irr predict` then goes through without a
call. A document is asked about in rounds: Rank's request stands on Infer's answer, so after each
round of answers the next requests are written, until none is missing.

    requests  the files of requests
    asked     which requests were written, and what became of them
    collect   documents → the requests that have no reply yet
    answers   files of answers → the ledger
    command   `irr batch write` and `irr batch read`
"""

from __future__ import annotations

from irr.batch.command import main

__all__ = ["main"]
