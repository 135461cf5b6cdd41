"""An event loop in a thread of its own, for callers that do not run one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, TypeVar

__all__ = ["BackgroundLoop"]

Result = TypeVar("Result")
# On Windows a wait without an end cannot be interrupted by Ctrl-C.
_LOOK_UP_SECONDS = 1.0
_END_SECONDS = 5.0


class BackgroundLoop:
    """Runs coroutines for other threads. Its loop is ended with the object, or at exit."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self.loop,), name="irr-lm", daemon=True)
        thread.start()
        weakref.finalize(self, _end, self.loop, thread)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine. Ctrl-C cancels it. The caller's context variables hold."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            while True:
                try:
                    return future.result(_LOOK_UP_SECONDS)
                except NotYetError:
                    if future.done():
                        raise
        except BaseException:
            future.cancel()
            raise


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        # Closes the connections too, see `irr.lm.client`.
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(_END_SECONDS)
