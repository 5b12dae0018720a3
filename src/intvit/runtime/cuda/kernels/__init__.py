"""Triton kernels of integer operators, and the functions that they share. Importing one imports triton."""
