// The native test executable: doctest over test/native, test/ops and test/models.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <cstdlib>

#include "doctest/doctest.h"
#include "native/harness.h"

int main(int argc, char** argv) {
    std::printf("NOEMA_SEED=%llu; cpu instruction sets:", static_cast<unsigned long long>(noema::test::seed()));
    for (const std::string& isa : noema::test::EachIsa().names) std::printf(" %s", isa.c_str());
    std::printf("; devices:");
    for (const std::string& device : noema::test::devices()) std::printf(" %s", device.c_str());
    if (noema::test::devices().empty()) std::printf(" none (skipped)");
    std::printf("\n");
    // NOEMA_REQUIRE=cuda: a device that could not be tested is a failure.
    const noema::Backend* required = nullptr;
    const char* name = std::getenv("NOEMA_REQUIRE");
    const noema::Status status = name ? noema::open_backend(name, &required) : noema::Status{};
    if (!status.ok()) {
        std::printf("required: %s\n", status.text);
        return 1;
    }
    doctest::Context context(argc, argv);
    return context.run();
}
