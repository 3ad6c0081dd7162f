"""The parent's side of a pool: its threads, their books, and the workers as they see them."""
