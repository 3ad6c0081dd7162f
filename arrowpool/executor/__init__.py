"""`concurrent.futures.ProcessPoolExecutor` on the engine of the pool."""

from arrowpool.executor.executor import ProcessPoolExecutor

__all__ = ["ProcessPoolExecutor"]
