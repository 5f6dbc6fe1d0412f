// Keeps the host of a long loop of launches at most two of them ahead, so that what it looks at between them (was the work cancelled?)
// counts soon. While a stream is recorded there is nothing to wait for.
#pragma once

#include "common/error.h"
#include "common/queue.h"

namespace noema::cuda {

class Pace {
 public:
    explicit Pace(const Stream& stream) : queue_(queue_of(stream)) {}

    /// Waits for the launch before the last.
    Status wait() {
        cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
        NOEMA_TRY(checked(cudaStreamIsCapturing(queue_.stream, &capturing), "asking for the stream's state"));
        recorded_ = capturing != cudaStreamCaptureStatusNone;
        if (recorded_ || count_ < 2) return {};
        return checked(cudaEventSynchronize(queue_.marks[count_ % 2]), "running the queued work");
    }
    /// After each launch.
    Status mark() {
        if (recorded_) return {};
        return checked(cudaEventRecord(queue_.marks[count_++ % 2], queue_.stream), "running the queued work");
    }

 private:
    const Queue& queue_;
    int count_ = 0;
    bool recorded_ = false;
};

}  // namespace noema::cuda
