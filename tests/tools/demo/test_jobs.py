"""Calls wait for their turn, so many and no more, and one that nobody waits for is not made."""

import asyncio
import threading

import pytest
from starlette.exceptions import HTTPException

from lit_jax.tools.demo.jobs import Jobs


def test_calls_beyond_those_that_may_wait_are_refused_and_places_become_free():
    async def main():
        jobs, gate, made = Jobs("questions", 2), threading.Event(), []
        calls = [
            asyncio.ensure_future(jobs.run(lambda i=i: (gate.wait(30), made.append(i)))) for i in range(3)
        ]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="3 questions are waiting already") as refused:
            await jobs.run(lambda: made.append("refused"))
        assert refused.value.status_code == 503 and int(refused.value.headers["Retry-After"]) > 0
        calls[1].cancel()  # Its place is free at once.
        await asyncio.sleep(0)
        calls.append(asyncio.ensure_future(jobs.run(lambda: made.append(3))))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert made == [0, 2, 3]
        assert await jobs.run(lambda: "next") == "next"

    asyncio.run(main())


def test_a_call_that_runs_keeps_its_place_and_an_error_frees_it():
    async def main():
        jobs, gate = Jobs("questions", 0), threading.Event()
        running = asyncio.ensure_future(jobs.run(lambda: gate.wait(30)))
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.sleep(0)
        with pytest.raises(HTTPException):
            jobs.check_room()
        gate.set()
        while jobs._taken:
            await asyncio.sleep(0.01)
        with pytest.raises(ZeroDivisionError):
            await jobs.run(lambda: 1 / 0)
        assert await jobs.run(lambda: 1) == 1

    asyncio.run(main())
