// noema-bench: times single ops against this machine's own ceilings.
//   --filter TEXT   only cases whose name contains TEXT (may be given again: any of them)
//   --device NAME   cuda, cuda:1: there instead of on the processor
//   --peers FILE    another library's figures to compare with (bench/gpu/peers.py writes them)
//   --isa NAME      portable, avx2, avx512, avx512-bf16, amx; default the best
//   --threads LIST  for instance 1,2; default 1 and all cores
//   --seconds S     per case, default 0.5
//   --json FILE     also writes the figures there
//   --list          names only
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ops/bench.h"

using namespace noema;
using namespace noema::bench;

namespace {

struct Options {
    std::vector<std::string> filters;
    std::vector<int> threads;
    Settings settings;
    std::string json;
    Peers peers;
    bool has_peers = false;
    bool list = false;
};

std::vector<int> numbers_in(const char* text) {
    std::vector<int> out;
    for (const char* p = text; p; p = std::strchr(p, ',') ? std::strchr(p, ',') + 1 : nullptr)
        out.push_back(std::max(1, std::atoi(p)));
    return out;
}

bool read_options(int argc, char** argv, Options& o) {
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--list") {
            o.list = true;
            continue;
        }
        if (i + 1 == argc) return false;
        const char* value = argv[++i];
        if (name == "--filter")
            o.filters.push_back(value);
        else if (name == "--device")
            o.settings.device = value;
        else if (name == "--peers" && !o.peers.read(value))
            return false;
        else if (name == "--peers")
            o.has_peers = true;
        else if (name == "--isa")
            o.settings.isa = value;
        else if (name == "--threads")
            o.threads = numbers_in(value);
        else if (name == "--seconds")
            o.settings.seconds = std::atof(value);
        else if (name == "--json")
            o.json = value;
        else
            return false;
    }
    if (!o.settings.device.empty()) o.threads = {0};
    if (o.threads.empty()) {
        o.threads = {1};
        if (ThreadTeam::available_cores() > 1) o.threads.push_back(ThreadTeam::available_cores());
    }
    return true;
}

bool selected(const std::string& name, const Options& o) {
    for (const std::string& f : o.filters)
        if (name.find(f) != std::string::npos) return true;
    return o.filters.empty();
}

void print_evaluations(const Case& c, const Figures& f) {
    if (f.evaluations > 0)
        std::printf("%-52s %.2f evaluations per scalar, %.1f ns per evaluation\n", "", f.evaluations / c.scalars,
                    f.best * 1e9 / f.evaluations);
}
void print_evaluations(const Workload&, const Figures&) {}

template <class C>
void print_row(const C& c, const Figures& f) {
    if (!f.failure.empty()) {
        std::printf("%-52s %-12s %3d  %s\n", c.name.c_str(), f.isa.c_str(), f.threads, f.failure.c_str());
        return;
    }
    std::printf("%-52s %-12s %3d %11.2f %11.2f %9.1f %8.1f %7.2f  %-5s %5.1f%%\n", c.name.c_str(), f.isa.c_str(),
                f.threads, f.best * 1e6, f.median * 1e6, c.work.flops / f.best * 1e-9,
                c.work.bytes * c.work.passes / f.best * 1e-9, c.work.exps / f.best * 1e-9, f.bound.c_str(),
                100 * f.share());
    if (c.work.passes > 1) std::printf("%-52s %.2f us per pass", "", f.best * 1e6 / c.work.passes);
    if (c.work.passes > 1 && c.work.bytes > 0)
        std::printf(", %.1f%% of the streaming bound", 100 * f.share_of_reading(c.work));
    if (c.work.passes > 1) std::printf("\n");
    print_evaluations(c, f);
    if (f.peer > 0) std::printf("%-52s peer %.2f us, we take %.2f times as long\n", "", f.peer * 1e6, f.best / f.peer);
}

template <class C>
void write_json_row(FILE* out, const C& c, const Figures& f, bool first) {
    std::fprintf(out, "%s\n  {\"case\": \"%s\", \"isa\": \"%s\", \"threads\": %d, ", first ? "" : ",", c.name.c_str(),
                 f.isa.c_str(), f.threads);
    if (!f.failure.empty()) {
        std::fprintf(out, "\"failure\": \"%s\"}", f.failure.c_str());
        return;
    }
    std::fprintf(out,
                 "\"calls\": %lld, \"best_seconds\": %.4e, \"median_seconds\": %.4e, \"flops\": %.6e, \"bytes\": %.6e, "
                 "\"exps\": %.6e, \"ceiling_flops\": %.4e, \"ceiling_bytes\": %.4e, \"ceiling_exps\": %.4e, "
                 "\"bound\": \"%s\", \"share\": %.4f, \"share_of_reading\": %.4f, \"peer_seconds\": %.4e, "
                 "\"evaluations\": %.4e}",
                 static_cast<long long>(f.calls), f.best, f.median, c.work.flops, c.work.bytes * c.work.passes,
                 c.work.exps, f.flop_rate, f.byte_rate, f.exp_rate, f.bound.c_str(), f.share(),
                 f.share_of_reading(c.work), f.peer, f.evaluations);
}

int run(const Options& o) {
    FILE* json = o.json.empty() ? nullptr : std::fopen(o.json.c_str(), "w");
    if (!o.json.empty() && !json) {
        std::fprintf(stderr, "cannot write %s\n", o.json.c_str());
        return 2;
    }
    if (json) std::fprintf(json, "[");
    std::printf("%-52s %-12s %3s %11s %11s %9s %8s %7s  %-5s %6s\n", "case", "isa", "thr", "best us", "median us",
                "Gflop/s", "GB/s", "Gexp/s", "bound", "share");
    bool failed = false, first = true;
    const auto report = [&](const auto& c, int threads) {
        Settings settings = o.settings;
        settings.threads = threads;
        Figures f = measure(c, settings);
        if (o.has_peers && f.failure.empty()) o.peers.compare(c.name, c.work, f);
        failed |= !f.failure.empty();
        print_row(c, f);
        std::fflush(stdout);
        if (json) write_json_row(json, c, f, first), std::fflush(json);
        first = false;
    };
    // First, for whoever stops this early: what models' steps take is most asked for. Without --device or a filter that names it, none is
    // run.
    for (const Workload& w : all_workloads())
        for (const int threads : o.threads)
            if (selected(w.name, o) && (!o.settings.device.empty() || !o.filters.empty())) report(w, threads);
    for (const Case& c : all_cases())
        for (const int threads : o.threads)
            if (selected(c.name, o)) report(c, threads);
    if (json) std::fprintf(json, "\n]\n");
    if (json) std::fclose(json);
    return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    Options o;
    if (!read_options(argc, argv, o)) {
        std::fprintf(stderr,
                     "noema-bench [--filter TEXT]... [--device NAME] [--peers FILE] [--isa NAME] [--threads 1,2] "
                     "[--seconds S] [--json FILE] [--list]\n");
        return 2;
    }
    if (!o.list) return run(o);
    for (const Case& c : all_cases())
        if (selected(c.name, o)) std::printf("%s\n", c.name.c_str());
    for (const Workload& w : all_workloads())
        if (selected(w.name, o)) std::printf("%s\n", w.name.c_str());
    return 0;
}
