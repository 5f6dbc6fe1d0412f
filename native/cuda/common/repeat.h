// Work that the device repeats by itself: a while node of a CUDA graph.
#pragma once

#include "common/queue.h"
#include "noema/backend.h"

namespace noema::cuda {

/// Whether toolkit and driver have while nodes.
bool has_while_nodes();

Status open_repeats(Queue& queue);
void close_repeats(Queue& queue);
/// Backend::begin_repeat and end_repeat.
Status begin_repeat(Queue& queue, const Repeat& repeat, const Stream& stream);
Status end_repeat(Queue& queue, const Repeat& repeat, bool complete, const Stream& stream);

/// Waits for the stream. While its device may be repeating something the host watches out for the owner's cancelling.
Status wait(Queue& queue, const Stream& stream);

}  // namespace noema::cuda
