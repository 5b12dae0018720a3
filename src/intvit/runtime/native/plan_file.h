// The bytes of a plan file (abi.h) as structures with pointers into them. Places are checked here, all else when the engine is
// made.
#pragma once
#include "step.h"

class PlanFile {
public:
    PlanFile(const uint8_t* file, int64_t size) : file(file), size(size) {
        static_assert(sizeof(void*) == 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a 64-bit little-endian processor");
        require(file && size >= int64_t(sizeof header), "no plan file: too short");
        memcpy(&header, file, sizeof header);
        require(!memcmp(header.magic, "intvit\n", 8), "no plan file of `intvit export plan`");
        require(header.abi == INTVIT_ABI, "the plan file was written by another version of intvit: export it again");
        int64_t place = sizeof header;
        read(buffers, header.buffer_count, place);
        read(steps, header.step_count, place);
        for (BufferDescription& buffer : buffers) buffer.data = at(buffer.data, buffer.bytes);
        for (StepDescription& step : steps)
            for (Array& array : step.constants) {
                require(0 <= array.count && array.count <= size, "a plan file with an array of impossible size");
                array.data = at(array.data, array.data ? array.count * size_of(array.type) : 0);
            }
    }

    PlanHeader header;
    vector<BufferDescription> buffers;
    vector<StepDescription> steps;

private:
    template <class T> void read(vector<T>& list, int64_t count, int64_t& place) {
        require(0 <= count && count <= (size - place) / int64_t(sizeof(T)), "a plan file that ends early");
        list.resize(count);
        if (count) memcpy(list.data(), file + place, count * sizeof(T));
        place += count * int64_t(sizeof(T));
    }
    const void* at(const void* place, int64_t bytes) const {
        const int64_t first = int64_t(reinterpret_cast<intptr_t>(place));
        if (first == 0) return nullptr;
        require(0 < first && first <= size && 0 <= bytes && bytes <= size - first, "a plan file that ends early");
        return file + first;
    }

    const uint8_t* const file;
    const int64_t size;
};
