<<<<<<< HEAD
"""Measurements against what people use instead; `python -m benchmarks NAME`."""
=======
"""Measured claims: ratios against peers and floors, in one run, medians of alternating runs."""
>>>>>>> main
