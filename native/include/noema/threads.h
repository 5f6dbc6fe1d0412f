// ThreadTeam: the engine's own compute threads, behind the Stream contract. Never libuv's pool, never OpenMP.
#pragma once

#include "noema/stream.h"

namespace noema {

class ThreadTeam {
 public:
    /// `threads` workers, the caller of dispatch counts as one of them; 0 means one per core this process may use.
    explicit ThreadTeam(int threads);
    ~ThreadTeam();
    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;

    int threads() const;
    /// One call at a time: a stream belongs to one session.
    Stream stream(const std::atomic<bool>* cancelled = nullptr);

    static int available_cores();

 private:
    struct State;
    State* state_;
};

}  // namespace noema
