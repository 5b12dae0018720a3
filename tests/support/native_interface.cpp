// What intvit.h promises a program in C++: tests/runtime/native/test_c_interface.py compiles and runs it.
//
//     native_interface PLAN IMAGES         prints what it has seen, a line each
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "intvit.h"

namespace {

const long NEVER = 1L << 60;
std::atomic<long> until_failure{NEVER};  // allocations that succeed before one fails; the library's, too

std::vector<unsigned char> content(const char* name) {
    std::ifstream file(name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Case {
    std::vector<unsigned char> plan, images;
    int64_t batch = 0, classes = 0;
    std::vector<int32_t> scores;

    intvit_engine* open(int threads, char* error, int64_t size) const {
        return intvit_open(plan.data(), int64_t(plan.size()), threads, error, size);
    }
    // Do the first `count` images have the scores that one thread gave?
    bool equal(intvit_engine* engine, int64_t count) const {
        std::vector<int32_t> found(scores.size());
        return !intvit_run(engine, images.data(), count, found.data(), nullptr, 0) &&
               !memcmp(found.data(), scores.data(), size_t(count * classes) * 4);
    }
};

void show(const char* name, const std::string& what) { printf("%s: %s\n", name, what.c_str()); }

void wrong_arguments(const Case& given, intvit_engine* engine) {
    std::vector<int32_t> scores(given.scores.size());
    const unsigned char* images = given.images.data();
    char error[200] = "", tiny[4] = "xyz";
    const auto said = [&](int32_t failed) { return std::string(failed ? error : "no error"); };
    show("no plan", said(!intvit_open(nullptr, 0, 1, error, sizeof error)));
    show("no engine", said(intvit_run(nullptr, images, 1, scores.data(), error, sizeof error)));
    show("no images", said(intvit_run(engine, nullptr, 1, scores.data(), error, sizeof error)));
    show("no room", said(intvit_run(engine, images, 1, nullptr, error, sizeof error)));
    show("batch -1", said(intvit_run(engine, images, -1, scores.data(), error, sizeof error)));
    show("batch 0", said(intvit_run(engine, nullptr, 0, nullptr, error, sizeof error)));
    show("tiny", intvit_open(images, 1, 1, tiny, sizeof tiny) ? "" : tiny);
    show("silent", !intvit_open(images, 1, 1, nullptr, 0) && !intvit_open(images, 1, 1, nullptr, 9) &&
                           !intvit_open(images, 1, 1, tiny, -1) && intvit_run(engine, images, -1, nullptr, nullptr, 9)
                       ? "yes"
                       : "no");
    intvit_destroy(nullptr);
}

void odd_address(const Case& given) {
    std::vector<unsigned char> moved(given.plan.size() + 1);
    memcpy(moved.data() + 1, given.plan.data(), given.plan.size());
    intvit_engine* engine = intvit_open(moved.data() + 1, int64_t(given.plan.size()), 2, nullptr, 0);
    moved.assign(moved.size(), 0xFF);  // the engine needs it no longer
    show("odd address", engine && given.equal(engine, given.batch) ? "equal" : "not equal");
    intvit_destroy(engine);
}

void many_threads(const Case& given) {
    intvit_engine *one = given.open(2, nullptr, 0), *other = given.open(3, nullptr, 0);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; caller++)
        callers.emplace_back([&, caller] {
            for (int i = 0; i < 30; i++) wrong += !given.equal(caller % 2 ? one : other, 1 + i % given.batch);
        });
    for (std::thread& caller : callers) caller.join();
    show("two engines, four threads", std::to_string(wrong) + " wrong");
    intvit_destroy(one);
    intvit_destroy(other);
}

// Every allocation of opening and of the first call fails in turn.
void no_memory(const Case& given) {
    std::map<std::string, long> seen;
    for (long count = 0, reached = 1; reached; count++) {
        char error[200] = "";
        std::vector<int32_t> scores(given.scores.size());
        until_failure = count;
        intvit_engine* engine = given.open(3, error, sizeof error);
        const bool failed = !engine || intvit_run(engine, given.images.data(), 1, scores.data(), error, sizeof error);
        reached = until_failure < 0;
        until_failure = NEVER;
        if (failed || reached) seen[failed ? error : "no error"]++;
        if (engine && !given.equal(engine, given.batch)) seen["and then wrong scores"]++;
        intvit_destroy(engine);
    }
    for (const auto& line : seen) show("no memory", line.first);
}

}  // namespace

void* operator new(size_t size) {
    void* memory = until_failure-- == 0 ? nullptr : malloc(size);
    if (!memory) throw std::bad_alloc();
    return memory;
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

int main(int, char** words) {
    Case given;
    given.plan = content(words[1]);
    given.images = content(words[2]);
    intvit_engine* engine = given.open(1, nullptr, 0);
    given.batch = int64_t(given.images.size()) / intvit_image_bytes(engine);
    given.classes = intvit_classes(engine);
    given.scores.resize(size_t(given.batch * given.classes));
    intvit_run(engine, given.images.data(), given.batch, given.scores.data(), nullptr, 0);
    wrong_arguments(given, engine);
    intvit_destroy(engine);
    odd_address(given);
    many_threads(given);
    no_memory(given);
}
