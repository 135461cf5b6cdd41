"""ReadAhead: documents read in a thread of its own, a bounded number ahead of their use.

In: any iterable of documents, perhaps a live stream. Out: the documents, as soon as they are
there, without ever making the reader of results wait for input that is yet to come.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable

from irr.types import Document

__all__ = ["ReadAhead"]


class ReadAhead:
    """Reads up to `most` documents ahead.

    An error that reading raises is kept in `failure`; what was read before it still comes out.
    The thread is a daemon: a read that never returns does not keep the process alive.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        most: int,
        on_change: Callable[[], object] | None = None,
    ) -> None:
        self.failure: BaseException | None = None
        self._waiting: deque[Document] = deque()
        self._room = threading.Semaphore(most)
        self._changed = threading.Condition()
        self._on_change = on_change
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._read, args=(documents,), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether all documents have come out."""
        with self._changed:
            return self._ended and not self._waiting

    def take(self, most: int, *, wait: bool = False) -> list[Document]:
        """Up to `most` documents that are there; with `wait`, at least one unless all are out."""
        with self._changed:
            while wait and not self._waiting and not self._ended:
                self._changed.wait()
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        for _ in taken:
            self._room.release()
        return taken

    def close(self) -> None:
        """Read no further; a read that has begun ends by itself."""
        self._closed = True
        self._room.release()

    def raise_failure(self) -> None:
        """Raise what reading raised, if anything."""
        if self.failure is not None:
            raise self.failure

    def _read(self, documents: Iterable[Document]) -> None:
        try:
            source = iter(documents)
            while True:
                self._room.acquire()
                if self._closed:
                    return
                document = next(source, None)
                if document is None:
                    return
                self._add(document)
        except Exception as error:  # Whatever it is, it is raised where the results are read.
            self.failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._tell()

    def _add(self, document: Document) -> None:
        with self._changed:
            self._waiting.append(document)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._on_change is not None and not self._closed:
            with contextlib.suppress(RuntimeError):  # The event loop was closed meanwhile.
                self._on_change()
