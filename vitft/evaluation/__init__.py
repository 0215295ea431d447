"""Exact prediction and the numbers made from it."""
