"""All Numba code, and nothing else: loops over pixels and tensors that release the GIL.

Importing a module of this package imports Numba (0.2-0.7 s); it is done only when something is computed.
"""
