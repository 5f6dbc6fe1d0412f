#include "handle.h"
#include "progress.h"

namespace noema::napi {

namespace {

constexpr const char* kDraws[] = {"argmax", "gumbel", "categorical", nullptr};
constexpr const char* kShapes[] = {"tanh", "linear", "exponential", nullptr};

TokenDraw read_draw(const Arguments& request) {
    const Arguments a = request.object("draw");
    TokenDraw d;
    d.kind = static_cast<DrawKind>(a.choice("kind", kDraws));
    d.temperature = static_cast<float>(a.number_or("temperature", 1.0));
    d.top_k = a.integer_or("topK", 0, 0, int64_t{1} << 31);
    d.top_p = static_cast<float>(a.number_or("topP", 1.0));
    d.excluded_id = request.integer_or("excludedId", -1, -1, int64_t{1} << 31);
    return d;
}

Neighbourhood read_neighbourhood(const Arguments& a) {
    Neighbourhood n;
    n.kernel = a.integer("kernel", 1, 1 << 24);
    n.multiplier = static_cast<float>(a.number("multiplier"));
    n.shape = static_cast<ConvShape>(a.choice("shape", kShapes));
    return n;
}

/// A step and the uniforms it may point to.
struct OwnedStep {
    DecodeStep step;
    std::vector<float> uniforms;
};

void read_convolution(const Arguments& a, OwnedStep& owned) {
    ConvolutionalDraw& d = owned.step.convolution;
    d.neighbourhood = read_neighbourhood(a);
    d.candidates = a.integer("candidates", 1, kMaxTopK - 1);
    d.move = static_cast<float>(a.number("move"));
    d.stay = static_cast<float>(a.number("stay"));
    d.temperature = static_cast<float>(a.number("temperature"));
    owned.uniforms = a.floats_or_empty("uniforms");
    const size_t expected = owned.step.rows.size() * static_cast<size_t>(d.candidates + 1);
    if (!owned.uniforms.empty() && owned.uniforms.size() != expected)
        a.refuse("uniforms", std::to_string(expected) + " values, candidates + 1 for each row");
    d.uniforms = owned.uniforms.empty() ? nullptr : owned.uniforms.data();
}

std::shared_ptr<OwnedStep> read_step(const Arguments& a) {
    auto owned = std::make_shared<OwnedStep>();
    DecodeStep& s = owned->step;
    s.step = a.integer("step", 0, int64_t{1} << 31);
    s.rows = a.ids("rows");
    s.draw = read_draw(a);
    s.entropy = a.boolean_or("entropy", false);
    s.margin = a.boolean_or("margin", false);
    s.top = a.integer_or("top", 0, 0, kMaxTopK);
    if (a.has("neighbourhood")) s.neighbourhood = read_neighbourhood(a.object("neighbourhood"));
    if (a.has("convolution")) read_convolution(a.object("convolution"), *owned);
    return owned;
}

std::vector<DecodeStep> read_plan(const Arguments& a) {
    const std::vector<int32_t> rows = a.ids("rows"), counts = a.ids("counts");
    const int64_t first = a.integer("firstStep", 0, int64_t{1} << 31);
    std::vector<DecodeStep> plan(counts.size());
    size_t used = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
        if (counts[i] < 0 || static_cast<size_t>(counts[i]) > rows.size() - used) a.refuse("counts", "parts of rows");
        plan[i].step = first + static_cast<int64_t>(i);
        plan[i].rows.assign(rows.begin() + used, rows.begin() + used + counts[i]);
        plan[i].draw = read_draw(a);
        used += counts[i];
    }
    if (used != rows.size()) a.refuse("counts", "parts that add up to all rows");
    return plan;
}

Napi::Value to_object(Napi::Env env, const DecodeStep& request, const DecodeResult& r) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("tokens", to_array(env, r.tokens));
    out.Set("confidence", to_array(env, r.confidence));
    if (request.entropy) out.Set("entropy", to_array(env, r.entropy));
    if (request.margin) out.Set("margin", to_array(env, r.margin));
    if (request.neighbourhood.kernel) out.Set("neighbourhood", to_array(env, r.neighbourhood));
    if (request.top) {
        out.Set("topIds", to_array(env, r.top_ids));
        out.Set("topProbabilities", to_array(env, r.top_probabilities));
    }
    return out;
}

class SessionHandle : public Handle<SessionHandle, DecodeSession> {
 public:
    using Handle::Handle;

    static Napi::Value define(Napi::Env env) {
        return DefineClass(
            env, "NativeSession",
            {InstanceMethod("step", &SessionHandle::step), InstanceMethod("run", &SessionHandle::run),
             InstanceMethod("canvas", &SessionHandle::canvas), InstanceMethod("dispose", &SessionHandle::dispose)});
    }

 private:
    struct Edit {
        std::vector<int32_t> rows, ids;
    };
    static Edit read_edit(const Arguments& a) { return {a.ids_or_empty("setRows"), a.ids_or_empty("setIds")}; }

    Napi::Value step(const Napi::CallbackInfo& info) {
        const auto session = alive(info, "session");
        const Arguments a(info, "step");
        const auto request = read_step(a);
        const auto edit = std::make_shared<Edit>(read_edit(a));
        auto out = std::make_shared<DecodeResult>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            NOEMA_TRY(session->set(edit->rows, edit->ids));
            return session->step(engine, request->step, *out, cancelled);
        };
        return runtime()->submit(
            info.Env(), {work, [=](Napi::Env env) { return to_object(env, request->step, *out); }, a.cancellation()});
    }

    Napi::Value run(const Napi::CallbackInfo& info) {
        const auto session = alive(info, "session");
        const Arguments a(info, "run");
        const auto plan = std::make_shared<std::vector<DecodeStep>>(read_plan(a));
        const auto edit = std::make_shared<Edit>(read_edit(a));
        const auto progress = Progress<int64_t>::read(
            a, "onSteps", runtime(), [](Napi::Env env, const Napi::FunctionReference& listener, int64_t steps) {
                listener.Call({Napi::Number::New(env, static_cast<double>(steps))});
            });
        auto out = std::make_shared<DecodeResult>();
        const auto work = [=](Engine& engine, const std::atomic<bool>* cancelled) {
            NOEMA_TRY(session->set(edit->rows, edit->ids));
            return session->run(engine, *plan, *out, cancelled, [&](int64_t steps) {
                if (progress) progress->raise([=](int64_t& latest) { latest = steps; });
            });
        };
        return runtime()->submit(info.Env(),
                                 {work, [=](Napi::Env env) { return to_object(env, {}, *out); }, a.cancellation()});
    }

    Napi::Value canvas(const Napi::CallbackInfo& info) {
        return to_array(info.Env(), alive(info, "session")->canvas());
    }

    Napi::Value dispose(const Napi::CallbackInfo& info) {
        drop();
        return info.Env().Undefined();
    }
};

}  // namespace

Napi::Value define_masked_session(Napi::Env env) {
    return SessionHandle::define(env);
}

Napi::Object new_masked_session(Napi::Env env, std::shared_ptr<Runtime> runtime,
                                std::shared_ptr<DecodeSession> session) {
    return SessionHandle::make(addon_data(env).masked_session, std::move(runtime), std::move(session));
}

}  // namespace noema::napi
