#include "block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <unistd.h>
#endif

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "device.h"
#include "fiber.h"
#include "shared_memory.h"

namespace noema::cuda::emulation {

namespace {

enum class State : uint8_t { ready, at_block, at_warp, at_counter, done };

struct PendingCopy {
    void* to;
    const void* from;
    int bytes;
    const void *low, *high;
    int group;
};

struct BlockState;

struct Thread {
    Fiber fiber;
    Place place;
    BlockState* block = nullptr;
    State state = State::ready;
    Site site = {};
    unsigned mask = 0;
    const unsigned* counter = nullptr;  // at_counter: whose top bit must become another than before
    unsigned before = 0;
    uint32_t warp_operations = 0;  // of this thread: which of the two exchanges is meant
    alignas(16) unsigned char gift[2][32];
    std::vector<PendingCopy> copies;
    int groups_closed = 0;
};

struct Warp {
    unsigned arrived = 0, mask = 0;
    uint32_t epoch = 0;  // barriers that order memory
    Exchange exchange[2];
};

struct BlockState {
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<Warp> warps;
    SharedMemory shared;
    uint32_t epoch = 0;
    int arrived = 0, finished = 0;
};

/// One launch at a time (DeviceAtWork holds the lock), so this is plain state.
struct Machine {
    const Grid* grid = nullptr;
    const std::function<void()>* body = nullptr;
    std::deque<BlockState> blocks;
    Thread* running = nullptr;
    int alive = 0;
    bool failed = false;
    char text[512] = {};
};

Machine& machine() {
    static Machine* m = new Machine;
    return *m;
}

Thread& running() {
    return *machine().running;
}

void write_report(const Thread& t, const char* format, va_list arguments) {
    Machine& m = machine();
    if (m.failed) return;
    m.failed = true;
    char what[384];
    vsnprintf(what, sizeof what, format, arguments);
    const Place& p = t.place;
    snprintf(m.text, sizeof m.text, "%s, block (%u,%u,%u), thread (%u,%u,%u): %s", m.grid->name, p.block.x, p.block.y,
             p.block.z, p.thread.x, p.thread.y, p.thread.z, what);
}

[[gnu::format(printf, 2, 3)]] void report_of(const Thread& t, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_report(t, format, arguments);
    va_end(arguments);
}

const char* file_name(const char* path) {
    const char* name = path;
    for (const char* p = path; *p; ++p)
        if (*p == '/') name = p + 1;
    return name;
}

void run_thread() {
    (*machine().body)();
    Thread& t = running();
    if (!t.copies.empty() && !machine().failed) report_of(t, "ends with asynchronous copies that it never waited for");
    t.state = State::done;
    ++t.block->finished;
    --machine().alive;
    t.fiber.leave();
}

void release_block(BlockState& b) {
    b.arrived = 0;
    ++b.epoch;
    for (auto& t : b.threads)
        if (t->state == State::at_block) t->state = State::ready;
}

bool flipped(const unsigned* counter, unsigned before) {
    return ((*counter ^ before) & 0x80000000u) != 0;
}

void wait(State state, Site site) {
    Thread& t = running();
    t.state = state;
    t.site = site;
    t.fiber.leave();
}

void start_block(BlockState& b, uint3 index) {
    Machine& m = machine();
    const Grid& g = *m.grid;
    const unsigned n = g.threads.x * g.threads.y * g.threads.z;
    b.shared.clear(g.dynamic_bytes, g.granted_bytes);
    b.warps.assign((n + 31) / 32, Warp{});
    b.epoch = 0;
    b.arrived = b.finished = 0;
    while (b.threads.size() < n) b.threads.push_back(std::make_unique<Thread>());
    b.threads.resize(n);
    for (unsigned i = 0; i < n; ++i) {
        Thread& t = *b.threads[i];
        t.place = {{i % g.threads.x, i / g.threads.x % g.threads.y, i / (g.threads.x * g.threads.y)},
                   index,
                   g.threads,
                   g.blocks,
                   static_cast<int>(i)};
        t.block = &b;
        t.state = State::ready;
        t.warp_operations = 0;
        t.copies.clear();
        t.groups_closed = 0;
        if (!t.fiber.prepare(run_thread)) report_of(t, "the host has no memory for a stack");
    }
    m.alive += static_cast<int>(n);
}

/// Nobody can go on: somebody waits for a thread that has ended or waits elsewhere.
void report_deadlock() {
    for (BlockState& b : machine().blocks)
        for (auto& t : b.threads)
            if (t->state == State::at_counter)
                return report_of(*t, "waits at %s:%d for blocks that do not arrive", file_name(t->site.file),
                                 t->site.line);
    for (BlockState& b : machine().blocks) {
        const Thread* waiting = nullptr;
        for (auto& t : b.threads)
            if (t->state != State::done) waiting = t.get();
        if (!waiting) continue;
        for (auto& t : b.threads) {
            if (t->state == waiting->state && t->site.line == waiting->site.line) continue;
            const char* what = t->state == State::done ? "has ended" : "waits elsewhere";
            report_of(*waiting, "divergent barrier: waits at %s:%d, thread %d %s (%s:%d)",
                      file_name(waiting->site.file), waiting->site.line, t->place.index, what,
                      t->site.file ? file_name(t->site.file) : "-", t->site.line);
            return;
        }
        report_of(*waiting, "waits at %s:%d for ever", file_name(waiting->site.file), waiting->site.line);
        return;
    }
}

/// Runs the blocks in `blocks` to their end.
void run_blocks(size_t count) {
    Machine& m = machine();
    while (m.alive > 0 && !m.failed) {
        bool moved = false;
        for (size_t i = 0; i < count && !m.failed; ++i)
            for (auto& t : m.blocks[i].threads) {
                if (t->state == State::at_counter && flipped(t->counter, t->before)) t->state = State::ready;
                if (t->state != State::ready) continue;
                moved = true;
                m.running = t.get();
                t->fiber.switch_to();
                if (m.failed) break;
            }
        if (!moved && !m.failed) report_deadlock();
    }
    m.alive = 0;
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
/// Address sanitizer calls this before it ends the process: its report should say where in the grid it happened.
extern "C" void __asan_on_error() {
    if (!machine().running || !machine().grid) return;
    report_of(running(), "address sanitizer found the access described above");
    const char* text = last_report();
    if (write(2, text, strlen(text)) < 0 || write(2, "\n", 1) < 0) return;
}
#endif

const Place& here() {
    return running().place;
}

void report(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_report(running(), format, arguments);
    va_end(arguments);
    for (;;) running().fiber.leave();
}

const char* last_report() {
    return machine().text;
}

bool run_grid(const Grid& grid, const std::function<void()>& body) {
    Machine& m = machine();
    m.grid = &grid;
    m.body = &body;
    m.failed = false;
    m.alive = 0;
    const size_t total = size_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
    const size_t together = grid.cooperative ? total : 1;
    while (m.blocks.size() < together) m.blocks.emplace_back();
    if (grid.cooperative) m.blocks.resize(together);
    for (size_t first = 0; first < total && !m.failed; first += together) {
        for (size_t i = 0; i < together; ++i) {
            const size_t n = first + i;
            start_block(m.blocks[i], {static_cast<unsigned>(n % grid.blocks.x),
                                      static_cast<unsigned>(n / grid.blocks.x % grid.blocks.y),
                                      static_cast<unsigned>(n / grid.blocks.x / grid.blocks.y)});
        }
        run_blocks(together);
    }
    m.running = nullptr;
    return !m.failed;
}

void block_barrier(Site site) {
    Thread& t = running();
    BlockState& b = *t.block;
    for (auto& other : b.threads)
        if (other->state == State::at_block) {
            if (other->site.line == site.line && other->site.file == site.file) break;
            report("divergent barrier: arrives at %s:%d while thread %d waits at %s:%d", file_name(site.file),
                   site.line, other->place.index, file_name(other->site.file), other->site.line);
        }
    if (++b.arrived == static_cast<int>(b.threads.size())) return release_block(b);
    wait(State::at_block, site);
}

namespace {

/// Waits for the lanes of the mask. The last to come calls `all_here` and goes on at once.
template <class F>
void meet(unsigned mask, Site site, const F& all_here) {
    Thread& t = running();
    BlockState& b = *t.block;
    Warp& w = b.warps[t.place.index / 32];
    const int first = t.place.index / 32 * 32, lane = t.place.index % 32;
    const int lanes = static_cast<int>(b.threads.size()) - first;
    if (lanes < 32) mask &= (1u << lanes) - 1;
    if (!(mask >> lane & 1))
        report("warp operation at %s:%d: the thread is not in its own mask %08x", file_name(site.file), site.line,
               mask);
    if (w.arrived && w.mask != mask)
        report("warp operation at %s:%d with mask %08x while others wait with %08x", file_name(site.file), site.line,
               mask, w.mask);
    for (int i = 0; w.arrived && i < 32; ++i) {
        if (!(w.arrived >> i & 1)) continue;
        const Thread& other = *b.threads[first + i];
        if (other.site.line == site.line && other.site.file == site.file) break;
        report("divergent warp operation: arrives at %s:%d while lane %d waits at %s:%d", file_name(site.file),
               site.line, i, file_name(other.site.file), other.site.line);
    }
    w.mask = mask;
    w.arrived |= 1u << lane;
    if (w.arrived != mask) return wait(State::at_warp, site);
    w.arrived = 0;
    all_here(w, first);
    for (int i = 0; i < 32; ++i)
        if ((mask >> i & 1) && b.threads[first + i]->state == State::at_warp)
            b.threads[first + i]->state = State::ready;
}

}  // namespace

void warp_barrier(unsigned mask, Site site) {
    meet(mask, site, [](Warp& w, int) { ++w.epoch; });
}

// Two exchanges in turn: nobody can be two operations ahead of another.
const Exchange& exchange(unsigned mask, const void* mine, size_t bytes, Site site) {
    Thread& t = running();
    const int turn = static_cast<int>(t.warp_operations++ % 2);
    std::memcpy(t.gift[turn], mine, bytes);
    Warp& warp = t.block->warps[t.place.index / 32];
    meet(mask, site, [&, turn](Warp& w, int first) {
        for (int i = 0; i < 32; ++i)
            w.exchange[turn].lane[i] = (w.mask >> i & 1) ? t.block->threads[first + i]->gift[turn] : nullptr;
    });
    return warp.exchange[turn];
}

unsigned arrive_at_counter(unsigned* counter, unsigned mine, Site site) {
    if (!machine().grid->cooperative) report("blocks that wait for each other need a cooperative launch");
    block_barrier(site);
    if (running().place.index != 0) return 0;
    const unsigned before = *counter;
    *counter = before + mine;
    return before;
}

void wait_at_counter(const unsigned* counter, unsigned before, Site site) {
    Thread& t = running();
    if (t.place.index == 0 && !flipped(counter, before)) {
        t.counter = counter;
        t.before = before;
        wait(State::at_counter, site);
    }
    block_barrier(site);
}

unsigned char* static_shared(const void* tag, size_t bytes) {
    return running().block->shared.fixed(tag, bytes);
}

unsigned char* dynamic_shared_memory(size_t offset, size_t bytes) {
    return running().block->shared.dynamic(offset, bytes);
}

uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(running().block->shared.offset_of(p));
}

void touch_shared(const void* at, size_t bytes, const void* low, const void* high, Access access) {
    Thread& t = running();
    SharedMemory& shared = t.block->shared;
    const auto* p = static_cast<const unsigned char*>(at);
    const char* verb = access == Access::read ? "read" : "written";
    if (p < low || p + bytes > high)
        report("shared memory is %s out of range: byte %td of an array of %td", verb,
               p - static_cast<const unsigned char*>(low),
               static_cast<const unsigned char*>(high) - static_cast<const unsigned char*>(low));
    if (reinterpret_cast<uintptr_t>(at) % bytes)
        report("shared memory at byte %u is misaligned for %zu bytes", shared_address(at), bytes);
    const Moment now{t.place.index, t.block->epoch, t.block->warps[t.place.index / 32].epoch};
    if (const char* wrong = shared.touch(at, bytes, access, now))
        report("shared memory at byte %u (element %td bytes into its array) %s", shared_address(at),
               p - static_cast<const unsigned char*>(low), wrong);
}

// From here to the wait the target holds nothing: whoever reads it in between is reported.
void queue_copy(void* to, const void* from, int bytes, const void* low, const void* high) {
    Thread& t = running();
    touch_shared(to, 16, low, high, Access::claim);
    t.copies.push_back({to, from, bytes, low, high, t.groups_closed});
}

void close_copies() {
    ++running().groups_closed;
}

void finish_copies(int pending) {
    Thread& t = running();
    std::vector<PendingCopy> left;
    for (const PendingCopy& c : t.copies) {
        if (c.group >= t.groups_closed - pending) {
            left.push_back(c);
            continue;
        }
        touch_shared(c.to, 16, c.low, c.high, Access::write);
        std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
        std::memset(static_cast<unsigned char*>(c.to) + c.bytes, 0, static_cast<size_t>(16 - c.bytes));
    }
    t.copies.swap(left);
}

}  // namespace noema::cuda::emulation
