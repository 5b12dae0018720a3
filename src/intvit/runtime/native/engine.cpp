// The engine: a checked plan, memory for images, and threads. See intvit.h and abi.h for the interface.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>

#include "plan_file.h"
#include "step.h"
#include "team.h"
#include "tile.h"

const View& Plan::checked(const View& view) const {
    require(0 <= view.buffer && view.buffer < count, "a view is of no buffer");
    require(1 <= view.rank && view.rank <= MAX_RANK, "a view has no axis or too many");
    const int64_t size = buffers[view.buffer].bytes / size_of(view.type);
    require(0 <= view.offset && view.offset < size, "a view starts outside its buffer");
    int64_t last = view.offset, total = 1;  // of entries; both stay below 2^62
    for (int i = 0; i < view.rank; i++) {
        require(1 <= view.shape[i] && view.shape[i] <= INT32_MAX && 0 <= view.strides[i] && view.strides[i] <= INT32_MAX,
                "a view has an empty axis or a wrong stride");
        last += (view.shape[i] - 1) * view.strides[i];
        total *= view.shape[i];
        require(last < size && total <= INT32_MAX, "a view ends outside its buffer");
    }
    return view;
}

namespace {

std::unique_ptr<Step> make_step(const Plan& plan) {
    switch (plan.step.kind) {
        case COPY: return make_copy(plan);
        case GATHER: return make_gather(plan);
        case LOOKUP: return make_lookup(plan);
        case LINEAR: return make_linear(plan);
        case MATMUL: return make_matmul(plan);
        case REQUANTIZE: return make_requantize(plan);
        case ADD: return make_add(plan);
        case LAYERNORM: return make_layernorm(plan);
        case SOFTMAX: return make_softmax(plan);
        case WEIGHTED_MEAN: return make_weighted_mean(plan);
        case ATTENTION: return make_attention(plan);
        case UPSAMPLE: return make_upsample(plan);
        case ARGMAX: return make_argmax(plan);
        case UPSAMPLED_LABELS: return make_upsampled_labels(plan);
        default: throw PlanError("unknown kind of step");
    }
}

}  // namespace

struct intvit_engine {
    intvit_engine(const BufferDescription* descriptions, int64_t buffer_count, const StepDescription* list, int64_t step_count,
                  int32_t input, int32_t output, int32_t threads)
        : threads(threads), input(input), output(output), team(checked_threads(threads)) {
        require(0 <= buffer_count && 0 <= step_count && buffer_count < (1 << 24), "a plan of impossible size");
        buffers.assign(descriptions, descriptions + buffer_count);
        add_buffers();
        for (int32_t index : {input, output})
            require(0 <= index && index < buffer_count && !buffers[index].data, "the input or output is no buffer");
        require(buffers[output].bytes % 4 == 0, "the scores are not int32");
        int64_t scratch = 0;
        for (int64_t i = 0; i < step_count; i++) try {
                steps.push_back(make_step(Plan(list[i], buffers.data(), buffer_count, threads)));
                scratch = std::max(scratch, steps.back()->scratch);
                held += steps.back()->constants;
            } catch (const PlanError& error) {
                throw PlanError("step " + std::to_string(i) + ": " + error.what());
            }
        require(scratch < (int64_t(1) << 40), "a step needs too much memory");
        counters = vector<std::atomic<int64_t>>(steps.size());
        times.resize(steps.size());
        for (int i = 0; i < threads; i++) {
            images.emplace_back(new Aligned(image_bytes));
            scratches.emplace_back(new Aligned(scratch));
        }
        held += threads * (image_bytes + scratch);
    }

    void run(const uint8_t* pixels, int64_t batch, int32_t* scores) {
        const std::unique_lock<std::mutex> turn = team.turn();
        if (batch >= threads)
            run_images(pixels, batch, scores);
        else
            run_together(pixels, batch, scores);
    }

    const void* memory() const { return images[0]->data(); }
    int64_t bytes() const { return held; }
    int64_t image_size() const { return buffers[input].bytes; }
    int64_t classes() const { return buffers[output].bytes / 4; }
    void take_times(int64_t* nanoseconds) {
        const std::unique_lock<std::mutex> turn = team.turn();
        for (size_t i = 0; i < times.size(); i++) nanoseconds[i] = times[i];
        times.assign(times.size(), 0);
    }

private:
    using Clock = std::chrono::steady_clock;

    static int32_t checked_threads(int32_t threads) {
        require(1 <= threads && threads <= 1024, "the number of threads is outside 1..1024");
        return threads;
    }

    void add_buffers() {
        constant_data.assign(buffers.size(), nullptr);
        for (size_t i = 0; i < buffers.size(); i++) {
            BufferDescription& buffer = buffers[i];
            require(1 <= buffer.bytes && buffer.bytes < (int64_t(1) << 36), "a buffer of impossible size");
            if (buffer.data) {
                constants.emplace_back(new Aligned(buffer.bytes));
                memcpy(constants.back()->data(), buffer.data, buffer.bytes);
                constant_data[i] = constants.back()->data();
                held += buffer.bytes;
                continue;
            }
            require(buffer.offset >= 0 && buffer.offset % 64 == 0 && buffer.offset < (int64_t(1) << 36), "a buffer at an impossible place");
            image_bytes = std::max(image_bytes, buffer.offset + buffer.bytes);
        }
    }

    Memory of_thread(int thread) {
        return {images[thread]->data(), constant_data.data(), buffers.data(), scratches[thread]->data()};
    }
    void put_image(const Memory& memory, const uint8_t* pixels, int64_t index) const {
        memcpy(memory.image + buffers[input].offset, pixels + index * buffers[input].bytes, buffers[input].bytes);
    }
    void take_scores(const Memory& memory, int32_t* scores, int64_t index) const {
        const int64_t bytes = buffers[output].bytes;
        memcpy(scores + index * (bytes / 4), memory.image + buffers[output].offset, bytes);
    }

    // Every thread takes whole images.
    void run_images(const uint8_t* pixels, int64_t batch, int32_t* scores) {
        std::atomic<int64_t> next{0};
        team.run([&](int thread) {
            const Memory memory = of_thread(thread);
            for (int64_t image; (image = next.fetch_add(1)) < batch;) {
                put_image(memory, pixels, image);
                for (size_t i = 0; i < steps.size(); i++) {
                    const Clock::time_point start = Clock::now();
                    steps[i]->run(0, steps[i]->units, memory);
                    if (thread == 0) times[i] += std::chrono::nanoseconds(Clock::now() - start).count();
                }
                take_scores(memory, scores, image);
            }
        });
    }

    // All threads share the units of each step of one image.
    void run_together(const uint8_t* pixels, int64_t batch, int32_t* scores) {
        for (int64_t image = 0; image < batch; image++) {
            for (std::atomic<int64_t>& counter : counters) counter = 0;
            put_image(of_thread(0), pixels, image);
            team.run([&](int thread) {
                Memory memory = of_thread(thread);
                memory.image = images[0]->data();
                for (size_t i = 0; i < steps.size(); i++) {
                    const int64_t units = steps[i]->units, share = std::max<int64_t>(1, units / (4 * threads));
                    for (int64_t begin; (begin = counters[i].fetch_add(share)) < units;)
                        steps[i]->run(begin, std::min(begin + share, units), memory);
                    team.barrier();
                }
            });
            take_scores(of_thread(0), scores, image);
        }
    }

    const int32_t threads, input, output;
    vector<BufferDescription> buffers;
    vector<std::unique_ptr<Aligned>> constants, images, scratches;
    vector<const uint8_t*> constant_data;
    vector<std::unique_ptr<Step>> steps;
    vector<std::atomic<int64_t>> counters;
    vector<int64_t> times;
    int64_t image_bytes = 0, held = 0;
    Team team;
};

namespace {

double processor_seconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// The best of a few runs: others may be using the caches.
double tile_speed() {
    [[maybe_unused]] const ThreadState state;
    const volatile int64_t unknown = 256 / sizeof(Column);  // a panel of 16 KiB; a constant would have code of its own
    const int64_t depth = unknown, calls = 2000;
    Aligned a(TILE_ROWS * depth * sizeof(Row)), panel(COLUMNS * depth * sizeof(Column)), sums(TILE_ROWS * COLUMNS * 4);
    for (Aligned* memory : {&a, &panel}) memset(memory->data(), 1, memory->bytes());  // else all pages are one page of zeros
    double least = 1e9;
    for (int run = 0; run < 10; run++) {
        const double start = processor_seconds();
        for (int64_t i = 0; i < calls; i++)
            tile(reinterpret_cast<Row*>(a.data()), depth, TILE_ROWS, reinterpret_cast<Column*>(panel.data()), COLUMNS / 16,
                 reinterpret_cast<int32_t*>(sums.data()));
        least = std::min(least, processor_seconds() - start);
    }
    return double(calls) * TILE_ROWS * COLUMNS * depth / least;
}

// As much of it as there is room for; the caller may not want to hear it.
void say(const char* problem, char* error, int64_t size) {
    if (error && size > 0) snprintf(error, size, "%s", problem);
}

template <class Work> int32_t guarded(char* error, int64_t size, Work work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        say("not enough memory", error, size);
    } catch (const std::exception& problem) {
        say(problem.what(), error, size);
    }
    return 1;
}

}  // namespace

#pragma GCC visibility push(default)  // everything else is hidden, which lets the compiler inline it
extern "C" {

int32_t intvit_abi() { return INTVIT_ABI; }
const char* intvit_path() { return INTVIT_PATH; }
int32_t intvit_supported() { return path_supported(); }

intvit_engine* intvit_create(const BufferDescription* buffers, int64_t buffer_count, const StepDescription* steps,
                             int64_t step_count, int32_t input, int32_t output, int32_t threads, char* error,
                             int64_t error_size) {
    intvit_engine* engine = nullptr;
    guarded(error, error_size, [&] {
        engine = new intvit_engine(buffers, buffer_count, steps, step_count, input, output, threads);
    });
    return engine;
}
intvit_engine* intvit_open(const void* plan, int64_t size, int32_t threads, char* error, int64_t error_size) {
    intvit_engine* engine = nullptr;
    guarded(error, error_size, [&] {
        const PlanFile file(static_cast<const uint8_t*>(plan), size);
        engine = new intvit_engine(file.buffers.data(), int64_t(file.buffers.size()), file.steps.data(),
                                   int64_t(file.steps.size()), file.header.input, file.header.output, threads);
    });
    return engine;
}
void intvit_destroy(intvit_engine* engine) { delete engine; }
int32_t intvit_run(intvit_engine* engine, const uint8_t* images, int64_t batch, int32_t* scores, char* error, int64_t error_size) {
    return guarded(error, error_size, [&] {
        require(engine, "no engine: a null pointer");
        require(batch >= 0, "a negative number of images");
        require(batch == 0 || (images && scores), "no images or no room for scores: a null pointer");
        engine->run(images, batch, scores);
    });
}
int64_t intvit_image_bytes(const intvit_engine* engine) { return engine->image_size(); }
int64_t intvit_classes(const intvit_engine* engine) { return engine->classes(); }
const void* intvit_memory(const intvit_engine* engine) { return engine->memory(); }
int64_t intvit_bytes(const intvit_engine* engine) { return engine->bytes(); }
void intvit_times(intvit_engine* engine, int64_t* nanoseconds) { engine->take_times(nanoseconds); }
double intvit_ceiling() { return tile_speed(); }

}
#pragma GCC visibility pop
