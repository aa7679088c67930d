"""Measured claims: ratios against peers and floors, in one run, medians of alternating runs."""
