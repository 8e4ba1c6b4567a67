/* A libnvidia-ml.so.1 for machines without a GPU, so that the tests meet the real binding.
 *
 * Its state is a text file named by NVML_STUB_STATE and read anew on each call, so a test can change it live:
 *
 *     init 18                     nvmlInit and nvmlDeviceGetCount answer this error (0 or absent: success)
 *     gpu 0 GPU-uuid Some Name    one line for each GPU: the error of taking its handle, its UUID, its name
 *
 * With -DOLD it lacks what an old driver lacks. A handle is the GPU's index plus one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, OPERATING_SYSTEM = 17 };

typedef struct { int error; char uuid[80]; char name[96]; } Gpu;
typedef struct { int init; unsigned count; Gpu gpus[16]; } State;

static int load(State *state) {
    char line[256];
    FILE *file = fopen(getenv("NVML_STUB_STATE"), "r");
    memset(state, 0, sizeof *state);
    if (!file) return OPERATING_SYSTEM;
    while (fgets(line, sizeof line, file)) {
        Gpu *gpu = &state->gpus[state->count];
        sscanf(line, "init %d", &state->init);
        if (state->count < 16 && sscanf(line, "gpu %d %79s %95[^\n]", &gpu->error, gpu->uuid, gpu->name) >= 2)
            state->count++;
    }
    fclose(file);
    return state->init;
}

static int find(State *state, void *handle, Gpu **gpu) {
    size_t index = (size_t)handle - 1;
    int error = load(state);
    if (error) return error;
    if (index >= state->count) return INVALID_ARGUMENT;
    *gpu = &state->gpus[index];
    return (*gpu)->error;
}

int nvmlInitWithFlags(unsigned flags) { /* bit 0: it is no error that there is no GPU */
    State s;
    int error = load(&s);
    return error ? error : s.count || flags & 1 ? SUCCESS : NOT_FOUND;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the stub"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    State s;
    int error = load(&s);
    return *count = s.count, error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    State s;
    Gpu *gpu;
    *handle = (void *)((size_t)index + 1);
    return find(&s, *handle, &gpu);
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    State s;
    Gpu *gpu;
    int error = find(&s, handle, &gpu);
    if (!error) snprintf(uuid, length, "%s", gpu->uuid);
    return error;
}

#ifndef OLD
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    State s;
    Gpu *gpu;
    int error = find(&s, handle, &gpu);
    if (!error) snprintf(name, length, "%s", gpu->name);
    return error;
}
#endif
