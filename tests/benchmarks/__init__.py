"""Benchmarks: run by hand, never timed by the tests."""
