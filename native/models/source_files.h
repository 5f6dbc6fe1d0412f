// SourceFiles: the files that a model's tensors are read from while it is loaded.
#pragma once

#include <map>
#include <string>

#include "noema/model.h"

namespace noema {

/// An open file, closed with its owner.
class SourceFile {
 public:
    SourceFile() = default;
    SourceFile(SourceFile&& other) noexcept { swap(other); }
    SourceFile& operator=(SourceFile&& other) noexcept {
        swap(other);
        return *this;
    }
    ~SourceFile();

    static Status open(const std::string& path, SourceFile& out);
    bool is_open() const { return file_ >= 0; }
    /// When it was opened.
    uint64_t size() const { return size_; }
    /// All of the bytes, or bad_checkpoint where the file ends before them, io where they cannot be read.
    Status read(uint64_t offset, size_t bytes, void* to) const;

 private:
    void swap(SourceFile& other) {
        std::swap(path_, other.path_);
        std::swap(file_, other.file_);
        std::swap(size_, other.size_);
    }
    std::string path_;
    int file_ = -1;
    uint64_t size_ = 0;
};

/// Tensors' bytes, from files or from memory. Files are read, never mapped: a mapping of a file that somebody shortens ends the process at
/// the next touch, and one that somebody writes changes the model.
class SourceFiles {
 public:
    /// Whether the source has so many bytes, before room is made for them.
    Status check(const TensorSource& source, size_t bytes);
    /// Copies bytes of a tensor, `from` counted from its first.
    Status read(const TensorSource& source, size_t from, size_t bytes, void* to);

 private:
    Status opened(const TensorSource& source, SourceFile*& out);
    std::map<std::string, SourceFile> files_;
};

}  // namespace noema
