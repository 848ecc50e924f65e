"""Joins what many connections ask for into batches."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs a function over batches of what waits; one batch at a time, in a thread.

    Nothing waits for a batch to fill: a batch is all that came while the one before it
    ran, so that a lone request is not delayed. All calls come from one event loop.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], most: int
    ) -> None:
        """Takes what answers a batch.

        Args:
            run: gives a result for each item, in their order.
            most: items of a batch.
        """
        self._run = run
        self._most = most
        self._waiting: collections.deque[tuple[Item, asyncio.Future[Result]]]
        self._waiting = collections.deque()
        # The loop itself keeps no hold of a task.
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result of one item.

        Raises:
            Exception: what `run` raised for the batch that the item was in.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch = []
            while self._waiting and len(batch) < self._most:
                one = self._waiting.popleft()
                # Whoever hung up is not worked for.
                if not one[1].done():
                    batch.append(one)
            if not batch:
                continue
            try:
                items = [item for item, _ in batch]
                results = await asyncio.to_thread(self._run, items)
                pairs = list(zip(batch, results, strict=True))
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in pairs:
                if not future.done():
                    future.set_result(result)
