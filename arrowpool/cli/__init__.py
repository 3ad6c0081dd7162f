"""The commands of `python -m arrowpool`. Called by `__main__`, and imported by no other module."""
