/* A libnvidia-ml.so.1 for machines without a GPU, so that the tests meet the real binding.
 *
 * Its state is a text file named by NVML_STUB_STATE, and every file in the folder of that name with ".d" behind it; all
 * are read again at each call, so a test, or a member that pretends to use a GPU, can change them live. One line each:
 *
 *     init 18                     nvmlInit and nvmlDeviceGetCount answer this error (0 or absent: success)
 *     gpu 0 GPU-uuid Some Name    one line for each GPU: the error of every call about it, its UUID, its name
 *     mig GPU-uuid MIG-uuid       an instance on it, which makes it a card in MIG mode; "mig GPU-uuid -": none is set up
 *     mem UUID 40960 500 300      MiB: total, used by no process, reserved by the driver
 *     proc UUID 1234 6000         a process that computes there and its MiB, for as long as it lives; -1: unknown
 *     ghost UUID 1234 6000        the same, alive or not: a pid of another namespace
 *     draw UUID 1234              a process that draws there
 *     linger UUID 3000            milliseconds that the memory of a process stays used after its end
 *     now UUID 93 61              utilisation in percent, degrees Celsius
 *     mode UUID 3                 compute mode
 *     cpus UUID f                 the cores near it, as a hexadecimal mask
 *     near UUID UUID 10           how far two are apart; 50 without such a line
 *     event UUID 8 79             an event: its type, its data; each line is reported once
 *     recovery UUID 1             what must be done before it works again
 *     slow 200                    milliseconds that taking a sample lasts
 *
 * With -DOLD it lacks what an old driver lacks. A handle is the place in the table plus one.
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15,
       OPERATING_SYSTEM = 17, MOST = 32, PROCESSES = 256 };
typedef unsigned long long u64;

typedef struct { char gpu[80]; unsigned pid; long mib; int drawing, ghost; } Process;
typedef struct {
    int error, parent, split, total, used, reserved, linger, utilisation, temperature, mode, recovery;
    u64 cpus;
    char uuid[80], name[96];
} Gpu;
typedef struct { char gpu[80]; u64 type, data; } Event;
typedef struct { char one[80], other[80]; int level; } Near;
typedef struct {
    int init, count, processes, events, nears, slow;
    Gpu gpus[MOST];
    Process process[PROCESSES];
    Event event[64];
    Near near[64];
} State;

static struct { unsigned pid; u64 died; } dead[1024];
static unsigned died;

static u64 milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static u64 dead_for(unsigned pid) {
    if (kill((pid_t)pid, 0) == 0) return 0;
    for (unsigned i = 0; i < died; i++)
        if (dead[i].pid == pid) return milliseconds() - dead[i].died + 1;
    if (died < 1024) dead[died].pid = pid, dead[died++].died = milliseconds();
    return 1;
}

static Gpu *by_uuid(State *s, const char *uuid) {
    static Gpu none;
    for (int i = 0; i < s->count; i++)
        if (!strcmp(s->gpus[i].uuid, uuid)) return &s->gpus[i];
    return &none;
}

static Gpu *added(State *s) {
    Gpu *gpu = &s->gpus[s->count < MOST - 1 ? s->count++ : MOST - 1];
    gpu->parent = gpu->utilisation = gpu->temperature = -1;
    gpu->total = 40960;
    return gpu;
}

static void read_file(State *s, const char *path) {
    char line[256], a[80], b[80];
    long x, y, z;
    u64 mask;
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        Process *p = &s->process[s->processes];
        if (sscanf(line, "init %ld", &x) == 1) s->init = (int)x;
        if (sscanf(line, "slow %ld", &x) == 1) s->slow = (int)x;
        if (sscanf(line, "gpu %ld %79s", &x, a) == 2) {
            Gpu *gpu = added(s);
            gpu->error = (int)x;
            sscanf(line, "gpu %*d %79s %95[^\n]", gpu->uuid, gpu->name);
        }
        if (sscanf(line, "mig %79s %79s", a, b) == 2) {
            Gpu *card = by_uuid(s, a);
            card->split = 1;
            if (strcmp(b, "-")) {
                Gpu *gpu = added(s);
                gpu->parent = (int)(card - s->gpus);
                strcpy(gpu->uuid, b);
                snprintf(gpu->name, sizeof gpu->name, "%.70s MIG 1g.5gb", card->name);
            }
        }
        if (sscanf(line, "mem %79s %ld %ld %ld", a, &x, &y, &z) == 4) {
            Gpu *gpu = by_uuid(s, a);
            gpu->total = (int)x, gpu->used = (int)y, gpu->reserved = (int)z;
        }
        if (s->processes < PROCESSES - 1) {
            p->ghost = sscanf(line, "ghost %79s %u %ld", p->gpu, &p->pid, &p->mib) == 3;
            p->drawing = sscanf(line, "draw %79s %u", p->gpu, &p->pid) == 2;
            if (p->ghost || p->drawing || sscanf(line, "proc %79s %u %ld", p->gpu, &p->pid, &p->mib) == 3) s->processes++;
        }
        if (sscanf(line, "linger %79s %ld", a, &x) == 2) by_uuid(s, a)->linger = (int)x;
        if (sscanf(line, "now %79s %ld %ld", a, &x, &y) == 3)
            by_uuid(s, a)->utilisation = (int)x, by_uuid(s, a)->temperature = (int)y;
        if (sscanf(line, "mode %79s %ld", a, &x) == 2) by_uuid(s, a)->mode = (int)x;
        if (sscanf(line, "recovery %79s %ld", a, &x) == 2) by_uuid(s, a)->recovery = (int)x;
        if (sscanf(line, "cpus %79s %llx", a, &mask) == 2) by_uuid(s, a)->cpus = mask;
        if (sscanf(line, "near %79s %79s %ld", a, b, &x) == 3 && s->nears < 64) {
            Near *near = &s->near[s->nears++];
            strcpy(near->one, a), strcpy(near->other, b), near->level = (int)x;
        }
        if (sscanf(line, "event %79s %ld %ld", a, &x, &y) == 3 && s->events < 64) {
            Event *event = &s->event[s->events++];
            strcpy(event->gpu, a), event->type = (u64)x, event->data = (u64)y;
        }
    }
    fclose(file);
}

static int load(State *s) {
    char path[4400];
    const char *state = getenv("NVML_STUB_STATE");
    memset(s, 0, sizeof *s);
    if (!state || access(state, R_OK)) return OPERATING_SYSTEM;
    read_file(s, state);
    snprintf(path, sizeof path, "%s.d", state);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "%.2000s.d/%.2000s", state, entry->d_name);
            read_file(s, path);
        }
    if (folder) closedir(folder);
    return s->init;
}

static int find(State *s, void *handle, Gpu **gpu) {
    size_t index = (size_t)handle - 1;
    int error = load(s);
    if (error) return error;
    if (index >= (size_t)s->count) return INVALID_ARGUMENT;
    *gpu = &s->gpus[index];
    return (*gpu)->parent >= 0 && s->gpus[(*gpu)->parent].error ? s->gpus[(*gpu)->parent].error : (*gpu)->error;
}
#define FIND State s; Gpu *gpu = 0; int error = find(&s, handle, &gpu); if (error) return error

int nvmlInitWithFlags(unsigned flags) { /* bit 0: it is no error that there is no GPU */
    State s;
    int error = load(&s);
    return error ? error : s.count || flags & 1 ? SUCCESS : NOT_FOUND;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) {
    return error == 15 ? "GPU is lost" : error == 18 ? "Driver/library version mismatch" : "an error of the stub";
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    State s;
    int error = load(&s);
    *count = 0;
    for (int i = 0; i < s.count; i++) *count += s.gpus[i].parent < 0;
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    State s;
    int error = load(&s);
    for (int i = 0; i < s.count; i++)
        if (s.gpus[i].parent < 0 && !index--) return *out = (void *)(size_t)(i + 1), error ? error : s.gpus[i].error;
    return error ? error : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **out) {
    State s;
    int error = load(&s);
    for (int i = 0; i < s.count; i++)
        if (!strcmp(s.gpus[i].uuid, uuid)) return *out = (void *)(size_t)(i + 1), error ? error : s.gpus[i].error;
    return error ? error : NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    FIND;
    snprintf(uuid, length, "%s", gpu->uuid);
    return SUCCESS;
}

static u64 used(State *s, Gpu *gpu) {
    u64 sum = (u64)gpu->used;
    for (int i = 0; i < s->processes; i++) {
        Process *p = &s->process[i];
        if (p->drawing || strcmp(p->gpu, gpu->uuid)) continue;
        u64 since = p->ghost ? 0 : dead_for(p->pid);
        if (since <= (u64)gpu->linger || !since) sum += p->mib < 0 ? 1000 : (u64)p->mib;
    }
    return sum;
}

typedef struct { u64 total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    FIND;
    if (s.slow) usleep((useconds_t)s.slow * 1000);
    memory->total = (u64)gpu->total << 20;
    memory->used = (used(&s, gpu) + (u64)gpu->reserved) << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct { unsigned pid; u64 memory; unsigned instance, compute; } Info;
static int listed(void *handle, unsigned *count, Info *infos, int drawing) {
    FIND;
    unsigned room = infos ? *count : 0, found = 0;
    for (int i = 0; i < s.processes; i++) {
        Process *p = &s.process[i];
        if (strcmp(p->gpu, gpu->uuid) || p->drawing != drawing || (!p->ghost && dead_for(p->pid))) continue;
        if (found < room) infos[found] = (Info){p->pid, p->mib < 0 ? ~0ull : (u64)p->mib << 20, 0, 0};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, Info *infos) {
    return listed(handle, count, infos, 0);
}

#ifndef OLD
int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    FIND;
    snprintf(name, length, "%s", gpu->name);
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Info *infos) {
    return listed(handle, count, infos, 0);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, Info *infos) {
    return listed(handle, count, infos, 1);
}

typedef struct { unsigned version; u64 total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *memory) {
    FIND;
    Memory old;
    if ((error = nvmlDeviceGetMemoryInfo(handle, &old))) return error;
    memory->total = old.total, memory->reserved = (u64)gpu->reserved << 20;
    memory->used = old.used - memory->reserved, memory->free = old.free;
    return SUCCESS;
}

typedef struct { unsigned gpu, memory; } Rates;
int nvmlDeviceGetUtilizationRates(void *handle, Rates *rates) {
    FIND;
    if (gpu->utilisation < 0) return NOT_SUPPORTED;
    rates->gpu = (unsigned)gpu->utilisation, rates->memory = 0;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    FIND;
    if (sensor || gpu->temperature < 0) return NOT_SUPPORTED;
    *celsius = (unsigned)gpu->temperature;
    return SUCCESS;
}
int nvmlDeviceGetComputeMode(void *handle, unsigned *mode) {
    FIND;
    *mode = (unsigned)gpu->mode;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    FIND;
    *current = *pending = (unsigned)gpu->split;
    return SUCCESS;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    FIND;
    *count = 7;
    return SUCCESS;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **out) {
    FIND;
    for (int i = 0; i < s.count; i++)
        if (s.gpus[i].parent == gpu - s.gpus && !index--) return *out = (void *)(size_t)(i + 1), SUCCESS;
    return NOT_FOUND;
}
int nvmlDeviceGetCpuAffinity(void *handle, unsigned words, u64 *set) {
    FIND;
    if (!gpu->cpus) return NOT_SUPPORTED;
    memset(set, 0, words * sizeof *set);
    set[0] = gpu->cpus;
    return SUCCESS;
}
int nvmlDeviceGetTopologyCommonAncestor(void *handle, void *other, int *level) {
    FIND;
    Gpu *beside = &s.gpus[(size_t)other - 1];
    *level = 50;
    for (int i = 0; i < s.nears; i++) {
        Near *n = &s.near[i];
        if ((!strcmp(n->one, gpu->uuid) && !strcmp(n->other, beside->uuid)) ||
            (!strcmp(n->one, beside->uuid) && !strcmp(n->other, gpu->uuid)))
            *level = n->level;
    }
    return SUCCESS;
}

static char registered[MOST][80];
static unsigned watched;
int nvmlEventSetCreate(void **set) { return watched = 0, *set = (void *)1, SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *handle, u64 types, void *set) {
    FIND;
    (void)set;
    if (types & 3 && strstr(gpu->name, "GeForce")) return NOT_SUPPORTED;
    if (watched < MOST) strcpy(registered[watched++], gpu->uuid);
    return SUCCESS;
}
typedef struct { void *device; u64 type, data; unsigned instance, compute; } Data;
static unsigned reported;
int nvmlEventSetWait_v2(void *set, Data *data, unsigned timeout) {
    State s;
    int error = load(&s);
    (void)set, (void)timeout;
    if (error) return error;
    for (unsigned i = 0; i < watched; i++) /* one that is lost is all that is heard of */
        if (by_uuid(&s, registered[i])->error == GPU_IS_LOST) return GPU_IS_LOST;
    if (reported > (unsigned)s.events) reported = 0; /* another test's state */
    if (reported == (unsigned)s.events) return TIMEOUT;
    Event *event = &s.event[reported++];
    *data = (Data){(void *)(size_t)(by_uuid(&s, event->gpu) - s.gpus + 1), event->type, event->data, 0, 0};
    return SUCCESS;
}

typedef struct { unsigned field, scope; long long time, latency; int type, error; u64 value; } Value;
int nvmlDeviceGetFieldValues(void *handle, int count, Value *values) {
    FIND;
    for (int i = 0; i < count; i++) {
        values[i].error = values[i].field == 230 ? SUCCESS : NOT_SUPPORTED;
        values[i].value = (u64)gpu->recovery;
    }
    return SUCCESS;
}
#endif
