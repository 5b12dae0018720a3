"""From a program to SystemVerilog units that give its integers, with test benches. `write_rtl` is in `files`.

units/*.sv                the units: parameters for widths and constants, no model in them
unit                      what a unit of one operator consists of: wrapper, memories, vectors
functions                 exponentials and GELUs of every family
site                      an operator with its values and bounds, and parts that several units have
operators, softmax_gelu   an operator of the program -> its unit
block                     units of a ViT's block -> one stream, with linear layers and attention
files                     units, wrappers, vectors, test benches and scripts into a folder
"""
