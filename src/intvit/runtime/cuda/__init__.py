"""The cuda runtime: from a program to a plan on torch tensors, and the Triton kernels that execute it."""
