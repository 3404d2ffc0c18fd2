"""Items that wait together are computed by one call; one that fails fails alone."""

import asyncio
import gc
import threading
import weakref

import pytest
from starlette.exceptions import HTTPException

from lit_jax.tools.demo.batcher import Batcher


class Doubling:
    """A call that notes its items and, for the first one, waits until it is told."""

    def __init__(self):
        self.seen, self.begun, self.gate = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.seen.append(list(items))
        self.begun.set()
        assert self.gate.wait(30)
        if "bad" in items:
            raise ValueError("bad")
        return [item * 2 for item in items]


async def waiting(batcher, call, *jobs):
    """Tasks of jobs, of which the first is being computed and the others wait."""
    tasks = [asyncio.ensure_future(batcher.run(*jobs[0]))]
    await asyncio.to_thread(call.begun.wait, 30)
    for job in jobs[1:]:
        tasks.append(asyncio.ensure_future(batcher.run(*job)))
        await asyncio.sleep(0)
    return tasks


def test_items_of_a_kind_that_wait_are_one_call_of_at_most_so_many():
    async def main():
        call = Doubling()
        batcher = Batcher({"a": call, "b": call}, most=4, waiting=100)
        jobs = [("a", [1]), ("a", [2, 3]), ("b", [4]), ("a", [5]), ("a", [6, 7]), ("a", [8])]
        tasks = await waiting(batcher, call, *jobs)
        call.gate.set()
        assert await asyncio.gather(*tasks) == [[2 * item for item in items] for _, items in jobs]
        assert call.seen == [[1], [2, 3, 5, 8], [4], [6, 7]]

    asyncio.run(main())


def test_a_job_with_more_items_than_a_call_may_have_is_a_call_by_itself():
    async def main():
        call = Doubling()
        batcher = Batcher({"a": call}, most=2, waiting=100)
        tasks = await waiting(batcher, call, ("a", [1]), ("a", [2, 3, 4]), ("a", [5]))
        call.gate.set()
        await asyncio.gather(*tasks)
        assert call.seen == [[1], [2, 3, 4], [5]]

    asyncio.run(main())


def test_the_job_that_fails_fails_alone():
    async def main():
        call = Doubling()
        batcher = Batcher({"a": call}, most=10, waiting=100)
        tasks = await waiting(batcher, call, ("a", ["x"]), ("a", ["y"]), ("a", ["bad"]), ("a", ["z"]))
        call.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(2), ValueError)
        assert results == [["xx"], ["yy"], ["zz"]]

    asyncio.run(main())


def test_more_items_than_may_wait_are_refused_and_cancelled_ones_are_not_computed():
    async def main():
        call = Doubling()
        batcher = Batcher({"a": call}, most=1, waiting=2)
        tasks = await waiting(batcher, call, ("a", [1]), ("a", [2]), ("a", [3]))
        with pytest.raises(HTTPException, match="2 items are waiting already") as refused:
            await batcher.run("a", [4])
        assert refused.value.status_code == 503 and refused.value.headers["Retry-After"]
        tasks[1].cancel()
        await asyncio.sleep(0)
        call.gate.set()
        assert await tasks[2] == [6]
        assert call.seen == [[1], [3]]

    asyncio.run(main())


def test_what_was_asked_is_forgotten_when_it_is_answered():
    class Item:
        def __mul__(self, number):
            return number

    async def main():
        call = Doubling()
        call.gate.set()
        call.seen = type("Nothing", (), {"append": lambda self, items: None})()
        batcher, item = Batcher({"a": call}, most=1, waiting=1), Item()
        await batcher.run("a", [item])
        kept = weakref.ref(item)
        del item
        for _ in range(100):
            gc.collect()
            if kept() is None:
                return
            await asyncio.sleep(0.02)
        pytest.fail("the thread keeps the item")

    asyncio.run(main())
