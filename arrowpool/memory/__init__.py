"""One owner's shared memory, and how others see it."""
