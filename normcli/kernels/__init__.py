"""All compiled code, and nothing else: loops over pixels and tensors that release the GIL.

They are compiled by Numba when first used on a machine (1 s), kept, and loaded from then on by LLVM alone (35 ms): see
`jit`. It is done only when something is computed.
"""
