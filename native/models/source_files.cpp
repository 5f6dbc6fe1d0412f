#include "models/source_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace noema {

SourceFile::~SourceFile() {
    if (is_open()) ::close(file_);
}

Status SourceFile::open(const std::string& path, SourceFile& out) {
    SourceFile opened;
    opened.path_ = path;
    // Without O_NONBLOCK a named pipe would hold the engine's thread until somebody writes to it.
    opened.file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (!opened.is_open()) return Status::error(Code::io, "%s: %s", path.c_str(), std::strerror(errno));
    struct stat info = {};
    if (fstat(opened.file_, &info) != 0 || !S_ISREG(info.st_mode))
        return Status::error(Code::io, "%s: this is no regular file", path.c_str());
    opened.size_ = static_cast<uint64_t>(info.st_size);
    out = std::move(opened);
    return {};
}

Status SourceFile::read(uint64_t offset, size_t bytes, void* to) const {
    constexpr size_t kMostAtOnce = size_t{1} << 30;  // one call reads less than 2 GB on any system
    auto* next = static_cast<std::byte*>(to);
    while (bytes > 0) {
        const ssize_t got = pread(file_, next, std::min(bytes, kMostAtOnce), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return Status::error(Code::io, "%s: %s", path_.c_str(), std::strerror(errno));
        if (got == 0)
            return Status::error(Code::bad_checkpoint, "%s: the file became shorter while it was read", path_.c_str());
        next += got;
        offset += static_cast<uint64_t>(got);
        bytes -= static_cast<size_t>(got);
    }
    return {};
}

Status SourceFiles::opened(const TensorSource& source, SourceFile*& out) {
    SourceFile& file = files_[source.path];
    if (!file.is_open()) NOEMA_TRY(SourceFile::open(source.path, file));
    out = &file;
    return {};
}

Status SourceFiles::check(const TensorSource& source, size_t bytes) {
    if (source.data) return {};
    SourceFile* file = nullptr;
    NOEMA_TRY(opened(source, file));
    if (source.offset <= file->size() && bytes <= file->size() - source.offset) return {};
    return Status::error(Code::bad_checkpoint, "tensor %s: its bytes lie beyond the end of the file",
                         source.name.c_str());
}

Status SourceFiles::read(const TensorSource& source, size_t from, size_t bytes, void* to) {
    if (source.data) {
        std::memcpy(to, reinterpret_cast<const std::byte*>(source.data) + from, bytes);
        return {};
    }
    SourceFile* file = nullptr;
    NOEMA_TRY(opened(source, file));
    return file->read(source.offset + from, bytes, to);
}

}  // namespace noema
