// The whole library as one translation unit, which compiles in half of the time. setup.py builds it once for each path.
#include "engine.cpp"
//
#include "attention.cpp"
#include "dense.cpp"
#include "layernorm.cpp"
#include "linear.cpp"
#include "lookup.cpp"
#include "matmul.cpp"
#include "move.cpp"
#include "pointwise.cpp"
#include "softmax.cpp"
