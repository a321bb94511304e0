/* The plain semantics in C. One call runs many worlds; all tables lie one world after the other.
 *
 * What ends next is found by scanning the end times of devices and resources (a transfer ends in
 * the slot of its lowest resource). A resource's queue is an array in the order (ready, transfer):
 * times never go back, so a newcomer passes only those of the same instant.
 */
#include <stdint.h>
#include <string.h>

#define NEVER INT64_MAX
#define SLOTS_MAX 128

enum { DEVICES, RESOURCES, LAUNCHES, LAUNCHES_END, COPIES, COPIES_END, QUEUES, FIRST, COLUMNS };

typedef struct {
    const int32_t *worlds;   /* (B, COLUMNS) */
    const int32_t *first;    /* per world and device */
    const int32_t *device, *follower, *missing;
    const int64_t *duration_ns;
    const int32_t *sends_start, *sends; /* per launch; all worlds */
    const uint64_t *held;    /* resources of each transfer as bits */
    const int32_t *copy_dst;
    const int64_t *copy_ns;
    const uint8_t *is_input, *is_answer;
    const int32_t *readers_start, *readers;
    const int32_t *queue_start; /* per world and resource, one more at the end */
    int64_t *launch_start, *launch_end, *copy_start, *copy_end, *makespan_ns;
    int32_t *left, *queue;   /* work: transfers that a launch still misses; queues */
    int64_t *ready_ns;       /* work */
} Batch;

typedef struct {
    int32_t head[64], tail[64], turn[64];
    const int32_t *start;
    uint64_t busy, touched, woken;
    int64_t end_ns[SLOTS_MAX];
    int32_t running[SLOTS_MAX];
} State;

static inline void push(const Batch *b, State *s, int32_t copy, int64_t now_ns) {
    b->ready_ns[copy] = now_ns;
    for (uint64_t bits = b->held[copy]; bits; bits &= bits - 1) {
        int r = __builtin_ctzll(bits);
        int32_t *queue = b->queue + s->start[r];
        int32_t place = s->tail[r]++;
        while (place > s->head[r] && queue[place - 1] > copy &&
               b->ready_ns[queue[place - 1]] == now_ns) {
            queue[place] = queue[place - 1];
            place--;
        }
        queue[place] = copy;
    }
    s->touched |= b->held[copy];
}

static inline void start_transfers(const Batch *b, State *s, int devices, int64_t now_ns) {
    for (uint64_t bits = s->touched & ~s->busy; bits; bits &= bits - 1) {
        int r = __builtin_ctzll(bits);
        if (s->busy >> r & 1 || s->head[r] == s->tail[r]) continue;
        int32_t copy = b->queue[s->start[r] + s->head[r]];
        uint64_t held = b->held[copy];
        if (held & s->busy) continue;
        uint64_t others = held & ~(1ULL << r);
        for (; others; others &= others - 1) {
            int o = __builtin_ctzll(others);
            if (b->queue[s->start[o] + s->head[o]] != copy) break;
        }
        if (others) continue;
        s->busy |= held;
        for (uint64_t own = held; own; own &= own - 1) s->head[__builtin_ctzll(own)]++;
        int slot = devices + __builtin_ctzll(held);
        b->copy_start[copy] = now_ns;
        s->end_ns[slot] = b->copy_end[copy] = now_ns + b->copy_ns[copy];
        s->running[slot] = copy;
    }
    s->touched = 0;
}

static inline void start_launches(const Batch *b, State *s, int64_t now_ns) {
    for (uint64_t bits = s->woken; bits; bits &= bits - 1) {
        int d = __builtin_ctzll(bits);
        int32_t launch = s->turn[d];
        if (launch < 0 || b->left[launch]) continue;
        s->turn[d] = -1;
        b->launch_start[launch] = now_ns;
        s->end_ns[d] = b->launch_end[launch] = now_ns + b->duration_ns[launch];
        s->running[d] = launch;
    }
    s->woken = 0;
}

static void run_world(const Batch *b, int world) {
    const int32_t *row = b->worlds + world * COLUMNS;
    const int devices = row[DEVICES], slots = devices + row[RESOURCES];
    int64_t now_ns = 0, last_ns = 0;
    State state, *s = &state;
    s->start = b->queue_start + row[QUEUES];
    s->busy = s->touched = 0;
    s->woken = devices == 64 ? ~0ULL : (1ULL << devices) - 1;
    for (int r = 0; r < row[RESOURCES]; r++) s->head[r] = s->tail[r] = 0;
    for (int d = 0; d < devices; d++) s->turn[d] = b->first[row[FIRST] + d];
    for (int i = 0; i < slots; i++) s->end_ns[i] = NEVER;
    memcpy(b->left + row[LAUNCHES], b->missing + row[LAUNCHES],
           sizeof(int32_t) * (size_t)(row[LAUNCHES_END] - row[LAUNCHES]));
    for (int32_t copy = row[COPIES]; copy < row[COPIES_END]; copy++)
        if (b->is_input[copy]) push(b, s, copy, 0);
    for (;;) {
        if (s->touched) start_transfers(b, s, devices, now_ns);
        if (s->woken) start_launches(b, s, now_ns);
        int64_t soonest = NEVER;
        for (int i = 0; i < slots; i++) soonest = s->end_ns[i] < soonest ? s->end_ns[i] : soonest;
        if (soonest == NEVER) break;
        now_ns = soonest;
        for (int d = 0; d < devices; d++) {
            if (s->end_ns[d] != now_ns) continue;
            int32_t launch = s->running[d];
            s->end_ns[d] = NEVER;
            s->turn[d] = b->follower[launch];
            s->woken |= 1ULL << d;
            for (int32_t i = b->sends_start[launch]; i < b->sends_start[launch + 1]; i++)
                push(b, s, b->sends[i], now_ns);
            last_ns = now_ns;
        }
        for (int i = devices; i < slots; i++) {
            if (s->end_ns[i] != now_ns) continue;
            int32_t copy = s->running[i];
            s->end_ns[i] = NEVER;
            s->busy &= ~b->held[copy];
            s->touched |= b->held[copy];
            for (int32_t k = b->readers_start[copy]; k < b->readers_start[copy + 1]; k++)
                b->left[b->readers[k]]--;
            s->woken |= 1ULL << b->copy_dst[copy];
            if (b->is_answer[copy]) last_ns = now_ns;
        }
    }
    b->makespan_ns[world] = last_ns;
}

void run_batch(const Batch *b, int count) {
    for (int world = 0; world < count; world++) run_world(b, world);
}
