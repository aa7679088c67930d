"""Measurements against what people use instead; `python -m benchmarks NAME`."""
