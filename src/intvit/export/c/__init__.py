"""From a program to portable C99: integers only, one static arena, no heap, no float. `write_c` is in `files`.

operators, lowering                      operators and groups -> steps: kernels with parameters and tensors
row_loops                                steps that work row by row -> loops over a few rows at a time
row_kernels, function_kernels,
attention, tensor_kernels                the C text of the kernels, for the types that the program has
source                                   steps -> model.h and model.c; constants -> weights.c, or weights.bin
files                                    all of it into a folder, with a Makefile and, if wanted, a main.c
"""
