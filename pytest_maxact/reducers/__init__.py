"""Mergeable statistics of a stream of activations, one file a statistic.

A kernel (`kernels/`) condenses each observed tensor, on its device, to a few integers a token: `Scan`. At the end of a
batch they come to the host as `Rows`, and reducers take it from there in exact arithmetic. A reducer is a value with
`update(rows)`, `merge(other)` and `finish()`; merging is associative and commutative to the bit, so that batches, ranks
and retries in any order give the same record.
"""
