"""The LM as DSPy wants it: a `dspy.LM` whose engine is ours.

DSPy's cache, history and retries are off; its fall-back to other clients cannot happen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dspy

from irr.ledger import Ledger
from irr.lm.engine import Collect, Engine
from irr.lm.settings import LMSettings, resolve

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response

__all__ = ["AsyncEngine", "open_lm", "quiet_dspy"]


@contextlib.contextmanager
def quiet_dspy() -> Iterator[None]:
    """DSPy without its history and trace, which grow by every call and copy every prompt."""
    with dspy.context(disable_history=True, trace=None):
        yield


def open_lm(
    settings: LMSettings,
    *,
    ledger: Ledger | None = None,
    role: str = "student",
    collect: Collect | None = None,
) -> dspy.LM:
    """Make the LM that `settings` names. Nothing is sent yet.

    With a `ledger`, its replies are kept there and its calls counted under `role`. With `collect`
    nothing is sent at all, see `Engine`.

    Raises:
        ConfigurationError: the name fits no LM, or a key is missing.
    """
    base, model, key = resolve(settings)
    reasoning = _is_reasoning_model(model)
    if ledger is not None:
        ledger.open_account(role, model)
    engine = Engine(
        base,
        key,
        model=model,
        timeout=settings.timeout,
        max_in_flight=settings.max_in_flight,
        ledger=ledger,
        role=role,
        collect=collect,
    )
    return dspy.LM(
        # The prefix only tells DSPy which family of arguments the model takes.
        model=f"openai/{model}",
        temperature=None if reasoning else settings.temperature,
        max_tokens=None if reasoning else settings.max_tokens,
        cache=False,
        num_retries=0,
        engine=engine,
        async_engine=AsyncEngine(engine),
    )


class AsyncEngine:
    """The asynchronous face of an `Engine`, as DSPy wants it: a second object."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __deepcopy__(self, memo: dict[int, object]) -> AsyncEngine:
        return self

    async def complete(self, request: Request) -> Response:
        return await self.engine.acomplete(request)


def _is_reasoning_model(model: str) -> bool:
    from dspy.clients.lm import _is_openai_reasoning_model

    return bool(_is_openai_reasoning_model(model))
