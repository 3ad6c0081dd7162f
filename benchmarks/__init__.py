"""Speed and memory of `arrowpool.Pool` beside the standard library's pool and its peers."""
