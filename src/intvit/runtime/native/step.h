// What a step of a plan is to the engine, and the checks that its constructor makes with.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

using std::vector;

// What is wrong with a plan. The engine adds the step's number.
struct PlanError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void require(bool condition, const char* message) {
    if (!condition) throw PlanError(message);
}

inline int64_t size_of(int32_t type) {
    static const int64_t sizes[] = {1, 1, 2, 2, 4, 4, 8};
    require(type >= I8 && type <= I64, "unknown type");
    return sizes[type];
}

// Where the buffers lie while an image runs. `scratch` belongs to the thread.
struct Memory {
    uint8_t* image;
    const uint8_t* const* constants;  // by buffer; null where the buffer lies in `image`
    const BufferDescription* buffers;
    uint8_t* scratch;

    uint8_t* at(const View& view) const {
        const uint8_t* constant = constants[view.buffer];
        uint8_t* start = constant ? const_cast<uint8_t*>(constant) : image + buffers[view.buffer].offset;
        return start + view.offset * size_of(view.type);
    }
};

// Work on one image, in units that may run in any order and at the same time.
class Step {
public:
    virtual ~Step() = default;
    virtual void run(int64_t begin, int64_t end, const Memory& memory) const = 0;
    int64_t units = 1;
    int64_t scratch = 0;   // bytes that `run` uses of Memory::scratch
    int64_t constants = 0; // bytes that it holds
};

// A step's description with the checks of what it refers to.
class Plan {
public:
    Plan(const StepDescription& step, const BufferDescription* buffers, int64_t count, int32_t threads)
        : step(step), threads(threads), buffers(buffers), count(count) {}

    // A view inside its buffer. Size 0, strides beyond the buffer and unknown types are refused.
    const View& input(int index) const { return checked(step.inputs[index]); }
    bool has_input(int index) const { return step.inputs[index].buffer >= 0; }
    const View& output() const {
        const View& view = checked(step.output);
        require(!buffers[view.buffer].data, "the output is a constant");
        return view;
    }
    int64_t attribute(int index, int64_t low, int64_t high) const {
        const int64_t value = step.attributes[index];
        require(low <= value && value <= high, "an attribute is outside its range");
        return value;
    }
    bool has_constant(int index) const { return step.constants[index].data != nullptr; }
    const Array& constant(int index, int32_t type, int64_t entries) const {
        const Array& array = step.constants[index];
        require(array.data && array.type == type && array.count == entries, "a constant has another type or size");
        return array;
    }
    template <class T> vector<T> copy(int index, int32_t type, int64_t entries) const {
        require(size_of(type) == int64_t(sizeof(T)), "a constant has another type");
        const Array& array = constant(index, type, entries);
        vector<T> result(entries);
        memcpy(result.data(), array.data, entries * sizeof(T));
        return result;
    }
    const View& checked(const View& view) const;

    const StepDescription& step;
    const int32_t threads;

private:
    const BufferDescription* buffers;
    const int64_t count;
};

inline int64_t entries(const View& view) {
    int64_t count = 1;
    for (int i = 0; i < view.rank; i++) count *= view.shape[i];
    return count;
}

inline int64_t last(const View& view) { return view.shape[view.rank - 1]; }

// Row-major without gaps.
inline bool dense(const View& view) {
    int64_t stride = 1;
    for (int i = view.rank - 1; i >= 0; stride *= view.shape[i--])
        if (view.shape[i] > 1 && view.strides[i] != stride) return false;
    return true;
}

inline const View& require_dense(const View& view) {
    require(dense(view), "a tensor is not dense");
    return view;
}

inline bool same_shape(const View& a, const View& b) {
    return a.rank == b.rank && !memcmp(a.shape, b.shape, a.rank * sizeof(int64_t));
}

// Entry offset of row `row` among the axes before `axes` last ones.
inline int64_t row_offset(const View& view, int64_t row, int axes) {
    int64_t offset = 0;
    for (int i = view.rank - axes - 1; i >= 0; i--) {
        offset += row % view.shape[i] * view.strides[i];
        row /= view.shape[i];
    }
    return offset;
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// 64-byte aligned memory, zero. Pages that nobody writes take no place. Large pieces come from the system and go back to it, which
// free() may not do.
class Aligned {
public:
    explicit Aligned(int64_t bytes = 0) : size(bytes), mapped(bytes >= 1 << 20) {
        if (mapped)
            storage = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
        else
            storage = calloc(size + 64, 1);
        if (!storage || storage == MAP_FAILED) throw PlanError("not enough memory");
    }
    ~Aligned() {
        if (mapped)
            munmap(storage, size);
        else
            free(storage);
    }
    Aligned(const Aligned&) = delete;
    Aligned& operator=(const Aligned&) = delete;
    uint8_t* data() { return reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<intptr_t>(storage), 64)); }
    const uint8_t* data() const { return const_cast<Aligned*>(this)->data(); }
    int64_t bytes() const { return size; }

private:
    int64_t size;
    bool mapped;
    void* storage;
};

std::unique_ptr<Step> make_copy(const Plan&);
std::unique_ptr<Step> make_gather(const Plan&);
std::unique_ptr<Step> make_lookup(const Plan&);
std::unique_ptr<Step> make_linear(const Plan&);
std::unique_ptr<Step> make_matmul(const Plan&);
std::unique_ptr<Step> make_requantize(const Plan&);
std::unique_ptr<Step> make_add(const Plan&);
std::unique_ptr<Step> make_layernorm(const Plan&);
std::unique_ptr<Step> make_softmax(const Plan&);
std::unique_ptr<Step> make_weighted_mean(const Plan&);
std::unique_ptr<Step> make_attention(const Plan&);
std::unique_ptr<Step> make_upsample(const Plan&);
std::unique_ptr<Step> make_argmax(const Plan&);
std::unique_ptr<Step> make_upsampled_labels(const Plan&);
