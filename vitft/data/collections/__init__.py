"""Readers of the raw collections behind VTAB, one module each."""
