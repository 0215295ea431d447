"""Tests of the documents of suites."""
