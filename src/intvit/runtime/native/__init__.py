"""The native runtime: from a program to a plan, and the C++ that executes it.

The C++ sources are here, and beside them one compiled library for each instruction set.

Start with abi.h. What calls the libraries is runtime.py.
"""
