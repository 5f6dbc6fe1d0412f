// Models whose tensors lie in a file: what becomes of the file is nothing to a model that was loaded.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "models/small_model.h"
#include "native/harness.h"

using namespace noema;
using namespace noema::test;

namespace {

/// A file of its own, removed at the end of the scope.
class TemporaryFile {
 public:
    TemporaryFile() {
        const int file = mkstemp(path_.data());
        REQUIRE(file >= 0);
        close(file);
    }
    ~TemporaryFile() { unlink(path_.c_str()); }
    const std::string& path() const { return path_; }
    void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
    void shorten(int64_t bytes) const { REQUIRE(truncate(path_.c_str(), bytes) == 0); }

 private:
    std::string path_ = (std::filesystem::temp_directory_path() / "noema-weights-XXXXXX").string();
};

/// The upper halves of values that have nothing in the lower ones.
std::string narrowed(const std::vector<float>& values) {
    std::string bytes;
    for (const float value : values) bytes.append(reinterpret_cast<const char*>(&value) + 2, 2);
    return bytes;
}

void drop_lower_halves(std::vector<float>& values) {
    for (float& value : values) std::memset(&value, 0, 2);
}

/// Writes the tensors and points their sources there; matrices in bf16. One odd byte in front: nothing is aligned.
void move_to_file(Weights& w, const std::vector<TensorSpec>& specs, const TemporaryFile& file) {
    std::string bytes(1, 'x');
    for (size_t i = 0; i < specs.size(); ++i) {
        TensorSource& source = w.sources[i];
        source.data = nullptr;
        source.path = file.path();
        source.offset = bytes.size();
        source.dtype = specs[i].is_matrix() ? DType::bf16 : DType::f32;
        const std::vector<float>& v = w.values[i];
        bytes += specs[i].is_matrix() ? narrowed(v)
                                      : std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
    }
    file.write(bytes);
}

/// A vocabulary of more than one piece.
MaskedConfig wide_config() {
    MaskedConfig config = small_config();
    config.vocab_size = 90000;
    return config;
}

void check_kept(Engine& engine, const Weights& narrow, Precision precision) {
    const MaskedConfig config = wide_config();
    Weights w = narrow;
    for (size_t i = 0; i < w.values.size(); ++i) w.sources[i].data = w.values[i].data();
    const std::vector<int32_t> ids = random_ids(3, config.vocab_size);
    const MaskedBatch batch{.ids = ids.data(), .B = 1, .T = 3};
    std::unique_ptr<MaskedModel> model;
    REQUIRE(MaskedModel::load(engine, config, w.sources, precision, model).ok());
    const std::vector<float> expected = logits_of(engine, *model, batch);

    const TemporaryFile file;
    move_to_file(w, masked_tensors(config), file);
    const Status status = MaskedModel::load(engine, config, w.sources, precision, model);
    REQUIRE_MESSAGE(status.ok(), status.text);
    const auto check_same = [&] {
        const std::vector<float> logits = logits_of(engine, *model, batch);
        CHECK(same_bits(logits.data(), expected.data(), static_cast<int64_t>(expected.size())));
    };
    check_same();
    file.write(std::string(1 << 20, '\x3f'));
    check_same();
    file.shorten(1000);
    check_same();
}

}  // namespace

TEST_CASE("weights in files: a model is what was loaded, though its file is overwritten or shortened") {
    Weights w = random_weights(wide_config());
    for (auto& values : w.values) drop_lower_halves(values);
    Engine cpu(*find_backend("cpu"), 2);
    for (const Precision precision : {Precision::f32, Precision::bf16}) check_kept(cpu, w, precision);
    for (const std::string& name : devices()) {
        INFO("device ", name);
        check_kept(device_engine(name), w, Precision::f32);
    }
}

TEST_CASE("weights in files: refusals") {
    Engine engine(*find_backend("cpu"), 1);
    const MaskedConfig config = small_config();
    Weights w = random_weights(config);
    std::unique_ptr<MaskedModel> model;
    const TemporaryFile file;
    move_to_file(w, masked_tensors(config), file);
    const auto check_refused = [&](Code code, const char* mentions) {
        const Status status = MaskedModel::load(engine, config, w.sources, Precision::f32, model);
        CHECK(status.code == code);
        CHECK_MESSAGE(std::string(status.text).find(mentions) != std::string::npos, status.text);
    };
    SUBCASE("a file that ends too early") {
        file.shorten(1000);
        check_refused(Code::bad_checkpoint, "embed.weight: its bytes lie beyond the end of the file");
    }
    SUBCASE("no such file") {
        for (TensorSource& source : w.sources) source.path = file.path() + "-not";
        check_refused(Code::io, (file.path() + "-not").c_str());
    }
    SUBCASE("a folder") {
        for (TensorSource& source : w.sources) source.path = "/tmp";
        check_refused(Code::io, "no regular file");
    }
}
