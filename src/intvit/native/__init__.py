"""C++ sources of the native runtime, and beside them one compiled library for each instruction set.

Start with abi.h. What calls the libraries is intvit/runtime/native_runtime.py.
"""
