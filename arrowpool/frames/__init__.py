"""From one frame to its parts, and from the parts' results to one answer: what `split`, `map_groups` and `map_frame` do.

`split` cuts; `cuts` decides where; `keys` says which rows belong together. `groups` cuts a pandas GroupBy into messages, `work` runs in
the workers, `stack` puts their results together for the way back, and `join` makes one object of the results of parts.
"""

from __future__ import annotations

from arrowpool.frames.split import split

__all__ = ["split"]
