"""Norms folded into the weights next to them: exact in float64, rounded once, measured, and rejected where wrong."""
