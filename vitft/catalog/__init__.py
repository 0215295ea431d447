"""Plain typed tables: tasks, model aliases, published numbers. No torch, no I/O beyond package files."""
