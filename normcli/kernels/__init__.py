"""All compiled code, and nothing else: loops over pixels, tensors and small files that release the GIL.

`kernel` compiles a loop by Numba when it is first used on a machine (1 s), stores its machine code, loads it from then
on by LLVM alone (35 ms), and decides when it is used. NORMCLI_AOT=0 leaves all to Numba.
"""
