// Rows of any type as int64, and back: for the steps that stand alone.
#pragma once
#include "step.h"

// n entries, `stride` apart.
template <class T> inline void widen_as(const uint8_t* data, int64_t stride, int64_t n, int64_t* row) {
    const T* x = reinterpret_cast<const T*>(data);
    if (stride == 1)
        for (int64_t i = 0; i < n; i++) row[i] = x[i];
    else
        for (int64_t i = 0; i < n; i++) row[i] = x[i * stride];
}

inline void widen(const uint8_t* data, int32_t type, int64_t stride, int64_t n, int64_t* row) {
    switch (type) {
        case I8: return widen_as<int8_t>(data, stride, n, row);
        case U8: return widen_as<uint8_t>(data, stride, n, row);
        case I16: return widen_as<int16_t>(data, stride, n, row);
        case U16: return widen_as<uint16_t>(data, stride, n, row);
        case I32: return widen_as<int32_t>(data, stride, n, row);
        case U32: return widen_as<uint32_t>(data, stride, n, row);
        default: return widen_as<int64_t>(data, stride, n, row);
    }
}

template <class T> inline void narrow_as(const int64_t* row, int64_t n, uint8_t* data) {
    for (int64_t i = 0; i < n; i++) reinterpret_cast<T*>(data)[i] = T(row[i]);
}

inline void narrow(const int64_t* row, int64_t n, int32_t type, uint8_t* data) {
    switch (type) {
        case I8:
        case U8: return narrow_as<uint8_t>(row, n, data);
        case I16:
        case U16: return narrow_as<uint16_t>(row, n, data);
        case I32:
        case U32: return narrow_as<uint32_t>(row, n, data);
        default: return narrow_as<uint64_t>(row, n, data);
    }
}

// clamp((v + 2^(shift-1)) >> shift)
inline int64_t rounding_shift(int64_t v, int64_t shift, int64_t low, int64_t high) {
    v = (v + (int64_t(1) << (shift - 1))) >> shift;
    v = v < low ? low : v;
    return v > high ? high : v;
}
