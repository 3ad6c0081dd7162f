"""How objects travel between two processes: taken apart, placed in segments, sent, and rebuilt."""
