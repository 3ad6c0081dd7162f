"""A web service whose background job runs a script over a large frame. No byte of the frame goes through a pipe.

    pip install 'arrowpool[service]'
    uvicorn service:app

- ``POST /jobs`` with prices as CSV (``date`` and one column a ticker): starts `compute_rsi_macd.py` and returns the job.
- ``GET /jobs/{job}``: the status, ``running``, ``done`` or ``failed``, and the error.
- ``GET /jobs/{job}/features/{ticker}``: the features of the last day.
- ``DELETE /jobs/{job}``: delete the job and its features.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from fastapi import FastAPI, HTTPException, Request

import arrowpool

SCRIPT = Path(__file__).with_name("compute_rsi_macd.py")


@dataclass
class Job:
    """One run of the script: its prices and, in the end, its features, by key."""

    prices: str
    status: str = "running"
    error: str = ""
    features: str = ""
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start the script and wait for it, without blocking the event loop."""
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, SCRIPT, self.prices),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, err = await process.communicate()
            except asyncio.CancelledError:
                process.kill()
                await process.wait()
                raise
            if process.returncode == 0:
                self.features, self.status = out.decode().strip(), "done"
            else:
                self.error, self.status = err.decode().strip()[-2000:], "failed"
        finally:
            arrowpool.delete(self.prices)

    async def forget(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.features:
            arrowpool.delete(self.features)


jobs: dict[str, Job] = {}
_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    for job in jobs.values():
        await job.forget()
    jobs.clear()


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def start(request: Request) -> dict[str, str]:
    try:
        prices = pd.read_csv(io.BytesIO(await request.body()), index_col="date", parse_dates=["date"])
    except ValueError as error:
        raise HTTPException(422, f"not prices as CSV: {error}") from error
    name = str(next(_numbers))
    job = jobs[name] = Job(prices=arrowpool.put(prices))
    job.task = asyncio.create_task(job.run())
    return {"job": name, "status": job.status}


@app.get("/jobs/{name}")
async def status(name: str) -> dict[str, str]:
    job = _find(name)
    return {"job": name, "status": job.status, "error": job.error}


@app.get("/jobs/{name}/features/{ticker}")
async def features(name: str, ticker: str) -> dict[str, float]:
    job = _find(name)
    if job.status != "done":
        raise HTTPException(409, f"this job is {job.status}")
    frame = arrowpool.get(job.features)  # the script's own memory: not copied, however large it is
    if ticker not in frame.columns.get_level_values(0):
        raise HTTPException(404, f"no ticker {ticker!r}")
    return {feature: float(value) for feature, value in frame[ticker].iloc[-1].items()}


@app.delete("/jobs/{name}", status_code=204)
async def forget(name: str) -> None:
    await _find(name).forget()
    del jobs[name]


def _find(name: str) -> Job:
    if name not in jobs:
        raise HTTPException(404, f"no job {name!r}")
    return jobs[name]
