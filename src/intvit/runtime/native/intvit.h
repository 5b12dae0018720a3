/* The native runtime for C, C++, Rust and whatever else calls C, without Python.
 *
 * `intvit export plan FOLDER FILE` writes an integer checkpoint as a plan file, once for all machines and paths. A library of
 * this folder (one for each instruction set; all give equal scores) opens its bytes and runs images:
 *
 *     intvit_engine* engine = intvit_open(bytes, size, threads, error, sizeof error);
 *     if (!engine) ...                                              // `error` holds one line
 *     if (intvit_run(engine, images, batch, scores, error, sizeof error)) ...
 *     intvit_destroy(engine);
 *
 * examples/run_plan.c is a whole program. The plan is not trusted: damaged bytes end in an error, or in wrong scores, never outside
 * of memory. Calls for one engine from several threads wait for each other; engines know nothing of each other. After a fork
 * engines work in the child. Processors are 64-bit and little-endian.
 */
#ifndef INTVIT_H
#define INTVIT_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct intvit_engine intvit_engine;

/* Counts changes of this interface and of plan files; a library opens files of its own number alone. */
enum { INTVIT_ABI = 3 };
int32_t intvit_abi(void);

/* Name of the instruction set that the library is compiled for, and whether this machine has it (1 or 0). Where it has not,
 * call nothing else. */
const char* intvit_path(void);
int32_t intvit_supported(void);

/* An engine from the `size` bytes of a plan file, which are not needed any longer afterwards; or null, with one line in the
 * `error_size` bytes of `error`, as much of it as there is room for; `error` may be null. threads: 1 to 1024, those of one call,
 * the caller among them. */
intvit_engine* intvit_open(const void* plan, int64_t size, int32_t threads, char* error, int64_t error_size);

/* Gives back memory and threads; of null, nothing. The caller sees to it that no call of the engine is in progress and none comes
 * afterwards. */
void intvit_destroy(intvit_engine* engine);

/* Bytes of one image, uint8 [channels][height][width], and scores of one image; of a plan that labels pixels, its labels,
 * [height][width], which then stand wherever scores are named here. */
int64_t intvit_image_bytes(const intvit_engine* engine);
int64_t intvit_classes(const intvit_engine* engine);

/* images: batch times intvit_image_bytes. scores: batch times intvit_classes. 0, or 1 with one line in `error`: where something is
 * null, batch is negative, or memory or threads run out. */
int32_t intvit_run(intvit_engine* engine, const uint8_t* images, int64_t batch, int32_t* scores, char* error, int64_t error_size);

/* Bytes that the engine holds: packed weights, tables, and the memory of images and threads. */
int64_t intvit_bytes(const intvit_engine* engine);

#ifdef __cplusplus
}
#endif
#endif
