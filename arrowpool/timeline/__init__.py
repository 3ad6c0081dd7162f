"""A trace of a pool: what each of its threads and workers did, as a file for Perfetto, as a plot, and as a table."""

from arrowpool.timeline.trace import Trace

__all__ = ["Trace"]
