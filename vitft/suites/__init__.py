"""Suites: which tasks one table has, as documents."""
