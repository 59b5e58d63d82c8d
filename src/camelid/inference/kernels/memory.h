// Memory straight from the system: zero, aligned to what the largest pages take, and in such pages where it is large.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace camelid {

class Memory {
public:
    Memory() = default;
    explicit Memory(size_t num_bytes) {
        if (num_bytes == 0) return;
        mapped_bytes_ = num_bytes + HUGE_PAGE;
        void* mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        mapped_ = mapped;
        const auto address = reinterpret_cast<uintptr_t>(mapped);
        start_ = reinterpret_cast<uint8_t*>((address + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
#ifdef MADV_HUGEPAGE
        if (num_bytes >= HUGE_PAGE) madvise(start_, num_bytes, MADV_HUGEPAGE);
#endif
    }
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Memory() {
        if (mapped_) munmap(mapped_, mapped_bytes_);
    }

    uint8_t* get() const { return start_; }

private:
    static constexpr size_t HUGE_PAGE = size_t(2) << 20;

    void swap(Memory& other) {
        std::swap(mapped_, other.mapped_);
        std::swap(mapped_bytes_, other.mapped_bytes_);
        std::swap(start_, other.start_);
    }

    void* mapped_ = nullptr;
    size_t mapped_bytes_ = 0;
    uint8_t* start_ = nullptr;
};

// Hands out pieces of large stretches of memory, so that small ones lie in large pages too; all go back together.
class Arena {
public:
    uint8_t* allocate(size_t num_bytes) {
        const size_t size = (num_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        if (size > STRETCH / 4) return stretches_.emplace_back(size).get();
        if (size > left_) {
            next_ = stretches_.emplace_back(STRETCH).get();
            left_ = STRETCH;
        }
        left_ -= size;
        return std::exchange(next_, next_ + size);
    }

private:
    static constexpr size_t STRETCH = size_t(32) << 20, ALIGNMENT = 4096;

    std::vector<Memory> stretches_;
    uint8_t* next_ = nullptr;
    size_t left_ = 0;
};

// An array that grows and forgets: what it held is lost when it does.
template <class T>
class Array {
public:
    T* grow(size_t count) {
        if (count > capacity_) {
            memory_ = Memory();
            memory_ = Memory(count * sizeof(T));
            capacity_ = count;
        }
        return get();
    }
    T* get() const { return reinterpret_cast<T*>(memory_.get()); }

private:
    Memory memory_;
    size_t capacity_ = 0;
};

}  // namespace camelid
