#include "noema/engine.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace noema {

namespace {

// Enough for the row counts that a generation or a training run passes through; a recording of a hundred kernels holds
// some 100 KB.
constexpr size_t kMostRecordings = 64;

size_t rounded(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

}  // namespace

uint64_t next_identity() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

/// Page-locked host memory through which the arrays of a run pass, in the order in which the body names them: a replayed
/// run finds every array in its place again.
class Engine::Staging : public Transfers {
 public:
    explicit Staging(const Backend& backend) : backend_(backend) {}
    ~Staging() override { backend_.release_host(memory_); }

    enum class Pass { measure, run, replay };
    void begin(Pass pass, const Stream& stream) {
        pass_ = pass;
        stream_ = stream;
        used_ = 0;
        wanted_.clear();
        status_ = {};
    }

    View upload(const View& host, Arena& arena) override {
        View v = view_like(host);
        v.data = arena.take(v.bytes());
        v.device = backend_.device;
        std::byte* slot = take(v.bytes());
        if (pass_ == Pass::measure || v.bytes() == 0) return v;
        std::memcpy(slot, host.data, v.bytes());
        if (pass_ == Pass::run) note(backend_.send(v.data, slot, v.bytes(), stream_));
        return v;
    }

    void fetch(const View& v, void* host) override {
        std::byte* slot = take(v.bytes());
        if (pass_ == Pass::measure || v.bytes() == 0) return;
        wanted_.push_back({host, slot, v.bytes()});
        if (pass_ == Pass::run) note(backend_.receive(slot, v.data, v.bytes(), stream_));
    }

    /// After measuring: whether there is too little memory.
    bool must_grow() const { return used_ > capacity_; }
    /// False where there is none of that size; then there is none at all.
    bool grow() {
        backend_.release_host(memory_);
        capacity_ = 2 * used_;
        memory_ = static_cast<std::byte*>(backend_.allocate_host(capacity_));
        if (!memory_) capacity_ = 0;
        return memory_;
    }
    size_t used() const { return used_; }

    const Status& status() const { return status_; }

    /// After the stream has come to rest.
    void deliver() {
        for (const Wanted& w : wanted_) std::memcpy(w.host, w.slot, w.bytes);
    }

 private:
    struct Wanted {
        void* host;
        std::byte* slot;
        size_t bytes;
    };

    static View view_like(const View& host) {
        View v = host;
        int64_t stride = 1;
        for (int i = v.rank - 1; i >= 0; --i) {
            v.stride[i] = stride;
            stride *= v.shape[i];
        }
        return v;
    }
    std::byte* take(size_t bytes) {
        const size_t start = used_;
        used_ += rounded(bytes);
        return memory_ + start;
    }
    void note(const Status& s) {
        if (status_.ok()) status_ = s;
    }

    const Backend& backend_;
    Stream stream_;
    Pass pass_ = Pass::measure;
    std::byte* memory_ = nullptr;
    size_t capacity_ = 0, used_ = 0;
    std::vector<Wanted> wanted_;
    Status status_;
};

Engine::Engine(const Backend& backend, int threads) : backend_(backend) {
    if (!backend.open_stream) {
        team_ = std::make_unique<ThreadTeam>(threads);
        return;
    }
    opened_ = backend.open_stream(stream_);
    staging_ = std::make_unique<Staging>(backend);
}

Engine::~Engine() {
    forget_recordings();
    if (backend_.close_stream && opened_.ok()) backend_.close_stream(stream_);
}

Status Engine::reserve(size_t bytes) {
    if (bytes <= block_.bytes() && block_.data()) return {};
    forget_recordings();
    block_ = Buffer();  // before the new one: both at once might not fit
    block_ = Buffer(backend_, bytes + 64);
    if (!block_.data()) return no_memory(bytes, "working memory");
    return {};
}

// A lost device has no memory either; it says so when it is asked to come to rest.
Status Engine::no_memory(size_t bytes, const char* what) const {
    if (staging_ && opened_.ok()) NOEMA_TRY(backend_.synchronize(stream_));
    return Status::error(Code::out_of_memory, "%zu bytes of %s could not be had", bytes, what);
}

Context Engine::context_for(const std::atomic<bool>* cancelled) {
    Context context{.backend = &backend_, .stream = team_ ? team_->stream() : stream_, .transfers = staging_.get()};
    context.stream.cancelled = cancelled;
    return context;
}

Status Engine::prepare(const Body& body, Context& context) {
    NOEMA_TRY(opened_);
    Arena measure(backend_.device);
    context.arena = &measure;
    if (staging_) staging_->begin(Staging::Pass::measure, context.stream);
    NOEMA_TRY(body(context));
    NOEMA_TRY(reserve(measure.high_water()));
    if (!staging_ || !staging_->must_grow()) return {};
    forget_recordings();  // they copy from where it was
    return staging_->grow() ? Status{} : no_memory(2 * staging_->used(), "page-locked memory");
}

Status Engine::run(const Body& body, Context& context) {
    Arena arena(block_.data(), block_.bytes(), backend_.device);
    context.arena = &arena;
    if (staging_) staging_->begin(context.replaying ? Staging::Pass::replay : Staging::Pass::run, context.stream);
    NOEMA_TRY(body(context));
    return staging_ ? staging_->status() : Status{};
}

// Also after a failure: what is under way reads and writes memory that the caller may free next.
Status Engine::finish(const Status& ran, const Context& context) {
    if (!staging_) return ran;
    const Status came_to_rest = backend_.synchronize(context.stream);
    NOEMA_TRY(ran);
    NOEMA_TRY(came_to_rest);
    staging_->deliver();
    return {};
}

Status Engine::execute(const Body& body, const std::atomic<bool>* cancelled) {
    Context context = context_for(cancelled);
    NOEMA_TRY(prepare(body, context));
    return finish(run(body, context), context);
}

Status Engine::record(const Body& body, Context& context, Recording** out) {
    NOEMA_TRY(backend_.begin_recording(context.stream));
    const Status ran = run(body, context);
    const Status ended = backend_.end_recording(context.stream, out);
    if (ran.ok()) return ended;
    if (ended.ok()) backend_.release_recording(*out);
    return ran;
}

Status Engine::execute(const Recipe& recipe, const Body& body, const std::atomic<bool>* cancelled) {
    if (!backend_.begin_recording) return execute(body, cancelled);
    Context context = context_for(cancelled);
    // A recording that is still there says that the memory it was made on is as well: nothing is left to measure.
    Recording* recording = find(recipe.key());
    context.replaying = recording != nullptr;
    if (recording) {
        NOEMA_TRY(run(body, context));
    } else {
        NOEMA_TRY(prepare(body, context));
        NOEMA_TRY(record(body, context, &recording));
        keep(recipe.key(), recording);
    }
    return finish(backend_.replay(recording, context.stream), context);
}

Recording* Engine::find(const std::string& key) {
    const auto found =
        std::find_if(recordings_.begin(), recordings_.end(), [&](const Recorded& r) { return r.key == key; });
    if (found == recordings_.end()) return nullptr;
    std::rotate(found, found + 1, recordings_.end());
    return recordings_.back().recording;
}

void Engine::keep(const std::string& key, Recording* recording) {
    if (recordings_.size() == kMostRecordings) {
        backend_.release_recording(recordings_.front().recording);
        recordings_.erase(recordings_.begin());
    }
    recordings_.push_back({key, recording});
}

void Engine::forget_recordings() {
    for (const Recorded& r : recordings_) backend_.release_recording(r.recording);
    recordings_.clear();
}

Status Engine::upload(void* device, const void* host, size_t bytes) {
    NOEMA_TRY(opened_);
    NOEMA_TRY(backend_.upload(device, host, bytes, stream_));
    return backend_.synchronize ? backend_.synchronize(stream_) : Status{};
}

Status Engine::download(void* host, const void* device, size_t bytes) {
    NOEMA_TRY(opened_);
    return backend_.download(host, device, bytes, stream_);
}

Status Engine::clear(void* device, size_t bytes) {
    NOEMA_TRY(opened_);
    NOEMA_TRY(backend_.clear(device, bytes, stream_));
    return backend_.synchronize ? backend_.synchronize(stream_) : Status{};
}

}  // namespace noema
