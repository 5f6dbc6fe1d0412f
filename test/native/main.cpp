// The native test executable: doctest over test/native, test/ops and test/models.
#define DOCTEST_CONFIG_IMPLEMENT
#include "doctest/doctest.h"
#include "native/harness.h"

int main(int argc, char** argv) {
    std::printf("NOEMA_SEED=%llu; cpu instruction sets:", static_cast<unsigned long long>(noema::test::seed()));
    for (const std::string& isa : noema::test::EachIsa().names) std::printf(" %s", isa.c_str());
    std::printf("\n");
    doctest::Context context(argc, argv);
    return context.run();
}
