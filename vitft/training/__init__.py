"""The loop, its optimiser and schedule, its randomness and its saved state."""
