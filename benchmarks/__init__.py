"""Speed and memory of `arrowpool.Pool`, compared with the standard library's pool and its peers."""
