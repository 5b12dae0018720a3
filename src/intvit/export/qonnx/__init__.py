"""From a program to a QONNX graph with FINN's conventions, executed by the package qonnx with equal integers.

model              `to_qonnx` and `save_qonnx`: a program -> the graph, and what FINN takes of it
operators          an operator of the program -> its nodes
thresholds         a rising function of an integer -> the thresholds of a MultiThreshold node
graph              nodes, initializers and annotations; the carriers of values
custom_operators   the nodes that QONNX has no operator for, with their execution: qonnx finds them by their domain
report             what FINN takes of an exported program, and why not the rest
execution          the graph run by qonnx, every value compared with the numpy runtime's

Writing a graph needs the packages of `intvit[onnx]`, running it those of `intvit[qonnx]`.
"""
