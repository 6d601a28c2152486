"""Mergeable statistics of a stream of activations, one file a statistic.

A kernel (`kernels/`) reads each observed tensor once, on its device, and fills in `rows.py`: a few integers a token, and
counts of values by bit pattern. At the end of a batch the reducers take it from there, for all sites of a `group.py` at
once. A reducer has `update(rows)`, `merge(other)` and `finish()`; merging is associative and commutative to the bit, so that
batches, ranks and retries in any order give the same record.
"""
