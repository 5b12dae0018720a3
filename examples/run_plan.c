/* An integer checkpoint in a C program, without Python: raw images in, a line of scores for each image out.
 *
 *     intvit export plan outputs/RUN_FOLDER/integer model.plan
 *     native=$(python -c "import intvit.runtime.native as n; print(n.__path__[0])")
 *     cc -I "$native" run_plan.c "$native"/scalar*.so -Wl,-rpath,"$native" -o run_plan      # or avx2, avx512, neon, ...
 *     ./run_plan model.plan images.raw THREADS                # uint8 [images][channels][height][width]
 */
#include <stdio.h>
#include <stdlib.h>

#include "intvit.h"

static unsigned char* read_file(const char* name, int64_t* size) {
    FILE* file = fopen(name, "rb");
    unsigned char* bytes = NULL;
    if (file && !fseek(file, 0, SEEK_END) && (*size = ftell(file)) >= 0 && (bytes = malloc((size_t)*size + 1))) {
        rewind(file);
        if (fread(bytes, 1, (size_t)*size, file) != (size_t)*size) {
            free(bytes);
            bytes = NULL;
        }
    }
    if (file) fclose(file);
    if (!bytes) fprintf(stderr, "%s cannot be read\n", name);
    return bytes;
}

int main(int count, char** words) {
    char error[500] = "";
    int64_t plan_size = 0, image_size = 0;
    if (count != 4) {
        fprintf(stderr, "usage: %s PLAN IMAGES THREADS\n", words[0]);
        return 2;
    }
    if (!intvit_supported()) {
        fprintf(stderr, "this machine does not run the path %s\n", intvit_path());
        return 1;
    }
    unsigned char *plan = read_file(words[1], &plan_size), *images = read_file(words[2], &image_size);
    if (!plan || !images) return 1;
    intvit_engine* engine = intvit_open(plan, plan_size, atoi(words[3]), error, sizeof error);
    free(plan); /* the engine has packed what it needs */
    if (!engine) {
        fprintf(stderr, "%s: %s\n", words[1], error);
        return 1;
    }
    const int64_t batch = image_size / intvit_image_bytes(engine), classes = intvit_classes(engine);
    if (image_size % intvit_image_bytes(engine)) {
        fprintf(stderr, "%s: %lld bytes, not whole images of %lld bytes\n", words[2], (long long)image_size,
                (long long)intvit_image_bytes(engine));
        return 1;
    }
    int32_t* scores = malloc((size_t)(batch * classes + 1) * sizeof *scores);
    if (!scores || intvit_run(engine, images, batch, scores, error, sizeof error)) {
        fprintf(stderr, "%s\n", scores ? error : "not enough memory");
        return 1;
    }
    for (int64_t i = 0; i < batch * classes; i++) printf("%d%c", (int)scores[i], (i + 1) % classes ? ' ' : '\n');
    intvit_destroy(engine);
    free(scores);
    free(images);
    return 0;
}
