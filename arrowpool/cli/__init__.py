"""What `python -m arrowpool` does, a module for each command; called by `__main__`, and imported by nothing else."""
