// The vectors of lanes.h in plain C++: the definition of each operation, and what runs where there is no other file.
#pragma once

enum { EPILOGUE_ROWS = 1, BYTES = 16 };

struct Lanes {
    int32_t lane[LANES];
};

inline Lanes load(const int32_t* p) {
    Lanes x;
    memcpy(x.lane, p, sizeof x.lane);
    return x;
}
template <class T> inline Lanes load(const T* p, int count) {
    Lanes x{};
    for (int i = 0; i < std::min<int>(count, LANES); i++) x.lane[i] = p[i];
    return x;
}
template <class T> inline void store(T* p, const Lanes& x, int count) {
    for (int i = 0; i < std::min<int>(count, LANES); i++) p[i] = T(x.lane[i]);
}
inline Lanes zero() { return Lanes{}; }
inline Lanes add(Lanes a, const Lanes& b) {
    for (int i = 0; i < LANES; i++) a.lane[i] = int32_t(uint32_t(a.lane[i]) + uint32_t(b.lane[i]));
    return a;
}
inline Lanes spread_32(int32_t value) {
    Lanes x;
    for (int32_t& lane : x.lane) lane = value;
    return x;
}
inline Lanes multiply(Lanes a, const Lanes& b) {
    for (int i = 0; i < LANES; i++) a.lane[i] = int32_t(uint32_t(a.lane[i]) * uint32_t(b.lane[i]));
    return a;
}
inline void keep_larger(const Lanes& x, const Lanes& index, Lanes& most, Lanes& best) {
    for (int i = 0; i < LANES; i++) {
        best.lane[i] = x.lane[i] > most.lane[i] ? index.lane[i] : best.lane[i];
        most.lane[i] = std::max(most.lane[i], x.lane[i]);
    }
}
inline Lanes shift_left(Lanes a, const Lanes& places) {
    for (int i = 0; i < LANES; i++) a.lane[i] = int32_t(uint32_t(a.lane[i]) << places.lane[i]);
    return a;
}

template <bool TWO> inline int64_t shifted(int64_t x, int64_t y, const Multipliers& m, int lane) {
    const int odd = lane % 2, place = lane / 2;
    return (x * m.x[odd][place] + (TWO ? y * m.y[odd][place] : 0) + m.half[odd][place]) >> m.shift[odd][place];
}
template <bool TWO>
inline Lanes multiply_shift(const Lanes& x, const Lanes& y, const Multipliers& m, int64_t low, int64_t high) {
    Lanes result;
    for (int i = 0; i < LANES; i++)
        result.lane[i] = int32_t(std::min(std::max(shifted<TWO>(x.lane[i], y.lane[i], m, i), low), high));
    return result;
}
template <bool TWO> inline Lanes multiply_shift_fitting(const Lanes& x, const Lanes& y, const Multipliers& m) {
    Lanes result;
    for (int i = 0; i < LANES; i++) result.lane[i] = int32_t(shifted<TWO>(x.lane[i], y.lane[i], m, i));
    return result;
}
inline Lanes multiply_shift_high(const Lanes& x, const Multipliers& m) { return multiply_shift_fitting<false>(x, x, m); }

template <class Out> inline void store_row(Out* p, const Lanes* x, int count, int32_t low, int32_t high) {
    for (int i = 0; i < count; i++) p[i] = Out(std::min(std::max(x[i / LANES].lane[i % LANES], low), high));
}

struct Normalizer {
    int64_t factor, offset, places;
};
inline Lanes normalize(Lanes x, const Normalizer& n, const Multipliers& m) {
    for (int i = 0; i < LANES; i++) x.lane[i] = int32_t((x.lane[i] * n.factor + n.offset) >> n.places);
    return multiply_shift_fitting<false>(x, x, m);
}

struct Scale {
    int64_t factor, places, low, high;
};
inline Lanes scale(Lanes x, const Scale& s) {
    for (int i = 0; i < LANES; i++) {
        const int64_t v = (x.lane[i] * s.factor + (int64_t(1) << (s.places - 1))) >> s.places;
        x.lane[i] = int32_t(std::min(std::max(v, s.low), s.high));
    }
    return x;
}

struct Words {
    int16_t word[32];
};
template <class T> inline Words load_words(const T* p, int64_t count) {
    Words x{};
    for (int i = 0; i < std::min<int64_t>(count, 32); i++) x.word[i] = p[i];
    return x;
}
inline Words multiply(Words x, const int16_t* y) {
    for (int i = 0; i < 32; i++) x.word[i] = int16_t(x.word[i] * y[i]);
    return x;
}
class RowSums {
public:
    void add(const Words& x) {
        for (int16_t word : x.word) {
            first += word;
            second += word * word;
        }
    }
    int64_t sum() const { return first; }
    int64_t squares() const { return second; }

private:
    int64_t first = 0, second = 0;
};

struct Bytes {
    uint8_t byte[BYTES];
};
using ByteMask = Bytes;  // of 0 and 255

inline Bytes load_bytes(const void* p, int64_t count) {
    Bytes x{};
    memcpy(x.byte, p, std::min<int64_t>(count, BYTES));
    return x;
}
inline void store_bytes(void* p, const Bytes& x, int64_t count) { memcpy(p, x.byte, std::min<int64_t>(count, BYTES)); }

template <class Function> inline Bytes each_byte(const Function& function) {
    Bytes result;
    for (int i = 0; i < BYTES; i++) result.byte[i] = uint8_t(function(i));
    return result;
}
inline Bytes spread(uint8_t value) {
    return each_byte([&](int) { return value; });
}
inline Bytes flip(const Bytes& x, const Bytes& y) {
    return each_byte([&](int i) { return x.byte[i] ^ y.byte[i]; });
}
inline Bytes larger(const Bytes& x, const Bytes& y) {
    return each_byte([&](int i) { return std::max(int8_t(x.byte[i]), int8_t(y.byte[i])); });
}
inline Bytes subtract(const Bytes& x, const Bytes& y) {
    return each_byte([&](int i) { return x.byte[i] - y.byte[i]; });
}
inline ByteMask first_bytes(int64_t count) {
    return each_byte([&](int i) { return i < count ? 255 : 0; });
}
inline ByteMask zero_bytes(const Bytes& x) {
    return each_byte([&](int i) { return x.byte[i] ? 0 : 255; });
}
inline ByteMask both(const ByteMask& a, const ByteMask& b) {
    return each_byte([&](int i) { return a.byte[i] & b.byte[i]; });
}
inline Bytes select(const ByteMask& mask, const Bytes& yes, const Bytes& no) {
    return each_byte([&](int i) { return mask.byte[i] ? yes.byte[i] : no.byte[i]; });
}
inline int8_t largest(const Bytes& x) {
    int8_t most = -128;
    for (uint8_t byte : x.byte) most = std::max(most, int8_t(byte));
    return most;
}

class ByteTable {
public:
    explicit ByteTable(const uint8_t* table) : table(table) {}
    Bytes at(const Bytes& x) const {
        return each_byte([&](int i) { return table[x.byte[i]]; });
    }

private:
    const uint8_t* const table;
};

class ByteSum {
public:
    void add(const Bytes& x) {
        for (uint8_t byte : x.byte) sum += byte;
    }
    int64_t total() const { return sum; }

private:
    int64_t sum = 0;
};
