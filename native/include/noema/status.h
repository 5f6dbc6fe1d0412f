// The result of everything that can fail. Plain data, so it crosses module edges and instruction sets.
#pragma once

#include <cstdarg>
#include <cstdio>

namespace noema {

enum class Code : unsigned char {
#define NOEMA_STATUS(name, code, meaning) name,
#include "noema/status.def"
#undef NOEMA_STATUS
};

struct Status {
    Code code = Code::ok;
    char text[256] = {};

    bool ok() const { return code == Code::ok; }

    /// Formats like snprintf; a longer text is cut. Inline, so that a module opened at run time carries its own.
    [[gnu::format(printf, 2, 3)]] static Status error(Code code, const char* format, ...) {
        Status s;
        s.code = code;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(s.text, sizeof s.text, format, arguments);
        va_end(arguments);
        return s;
    }
};

/// "ERR_..." for a code, and one line of what it means.
const char* code_name(Code code);
const char* code_meaning(Code code);

}  // namespace noema

/// Returns early from a function that itself returns Status.
#define NOEMA_TRY(expression)                                                                           \
    do {                                                                                                \
        if (::noema::Status failed_status_ = (expression); !failed_status_.ok()) return failed_status_; \
    } while (0)
