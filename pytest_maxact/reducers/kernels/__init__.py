"""Kernels: ways to condense a tensor to a `Scan`. All give the same integers; they differ in speed only."""
