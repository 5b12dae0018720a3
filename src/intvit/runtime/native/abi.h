// The plan as plain structures, and what runtime.py calls besides intvit.h.
//
// A plan is a list of steps on buffers. It is lowered from an integer program in Python (lowering.py), where every
// function of few arguments has become a table. The library trusts none of it: it checks every index,
// extent, shift and table before anything is computed.
#pragma once
#include <cstdint>

#include "intvit.h"

enum { MAX_RANK = 16, MAX_INPUTS = 5, MAX_CONSTANTS = 8, MAX_ATTRIBUTES = 12 };

enum Type : int32_t { I8, U8, I16, U16, I32, U32, I64 };

enum Kind : int32_t {
    COPY, GATHER, LOOKUP, LINEAR, MATMUL, REQUANTIZE, ADD, LAYERNORM, SOFTMAX, WEIGHTED_MEAN, ATTENTION, UPSAMPLE, ARGMAX,
    UPSAMPLED_LABELS
};

// A strided tensor inside a buffer. Offset and strides count entries, not bytes. buffer < 0: there is none.
struct View {
    int32_t buffer, type, rank, padding;
    int64_t offset;
    int64_t shape[MAX_RANK], strides[MAX_RANK];
};

// A constant array, copied by intvit_create.
struct Array {
    const void* data;
    int64_t count;
    int32_t type, padding;
};

struct StepDescription {
    int32_t kind, padding;
    View inputs[MAX_INPUTS];
    View output;
    int64_t attributes[MAX_ATTRIBUTES];
    Array constants[MAX_CONSTANTS];
};

// Bytes at `offset` of the memory for one image, which steps may share once its content is used up. data: a constant
// buffer, filled once and never written.
struct BufferDescription {
    int64_t offset, bytes;
    const void* data;
};

// A plan file (plan_file.py writes it): this, then the buffers and the steps, then what they refer to. In place of a pointer
// stands the distance from the start of the file; 0: null.
struct PlanHeader {
    char magic[8];  // "intvit\n" and a zero
    int32_t abi, input, output, padding;
    int64_t buffer_count, step_count;
};

extern "C" {
// An engine, or null with one line in `error`. The image is the uint8 buffer `input`, the scores or labels the int32 buffer
// `output`.
intvit_engine* intvit_create(const BufferDescription* buffers, int64_t buffer_count, const StepDescription* steps,
                             int64_t step_count, int32_t input, int32_t output, int32_t threads, char* error,
                             int64_t error_size);
// Memory of the image that ran last on the calling thread, where buffers lie at their offsets.
const void* intvit_memory(const intvit_engine* engine);
// Nanoseconds that each step took in all images since the last call, on one thread.
void intvit_times(intvit_engine* engine, int64_t* nanoseconds);
// Multiply-adds a second of the tile on data in the first-level cache.
double intvit_ceiling();
}
