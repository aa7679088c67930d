"""All compiled code, and nothing else: loops over pixels, tensors and small files that release the GIL.

`kernel` decides when a loop is compiled and used; `aot` compiles it by Numba when it is first used on a machine (1 s)
and loads it from then on by LLVM alone (35 ms); `code_cache` stores it. NORMCLI_AOT=0 leaves both to Numba.
"""
