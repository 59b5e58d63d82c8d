// One pool of threads that runs a whole forward pass: the caller is thread 0, the others spin for a moment after their
// work, and then sleep. Each thread has its own stretch of a loop's items, which it reads from memory in one run; what a
// thread that is held up leaves over, the others take.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace camelid {

inline void pause_thread() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Pool {
public:
    using Job = void (*)(void* context, int thread);

    explicit Pool(int num_threads) : num_threads_(num_threads), stretches_(new Stretch[num_threads]) {
        try {
            for (int thread = 1; thread < num_threads; ++thread) threads_.emplace_back([=] { serve(thread); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }

    int num_threads() const { return num_threads_; }

    // Runs `job(context, thread)` on every thread and returns when all are through.
    void run(Job job, void* context) {
        job_ = job;
        context_ = context;
        wake();
        job(context, 0);
        barrier();
    }

    // Calls `body(item)` for 0 .. count - 1, shared out among the threads, all of which must come here; none goes on
    // before all items are done.
    template <class Body>
    void for_each(int count, Body body) {
        for (int turn = 0, owner = current_thread; turn < num_threads_; ++turn, owner = (owner + 1) % num_threads_) {
            const int first = start_of(owner, count), end = start_of(owner + 1, count);
            std::atomic<int>& num_taken = stretches_[owner].num_taken;
            while (num_taken.load(std::memory_order_relaxed) < end - first) {
                const int item = first + num_taken.fetch_add(1, std::memory_order_relaxed);
                if (item < end) body(item);
            }
        }
        barrier();
    }

    // The same for bodies so short that handing them out one by one would take longer than some of them.
    template <class Body>
    void for_each_short(int count, Body body) {
        const int run = std::clamp(count / (4 * num_threads_), 1, 16);
        for_each((count + run - 1) / run, [&](int item) {
            for (int i = item * run; i < std::min((item + 1) * run, count); ++i) body(i);
        });
    }

    // Waits until every thread is here.
    void barrier() {
        const unsigned round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            for (int thread = 0; thread < num_threads_; ++thread)
                stretches_[thread].num_taken.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
            if (spins < SPINS_IN_STEP) {
                pause_thread();
            } else {
                std::this_thread::yield();
            }
        }
    }

private:
    static constexpr int SPINS_IN_STEP = 1000, SPINS_BETWEEN_STEPS = 4000;

    struct alignas(64) Stretch {
        std::atomic<int> num_taken{0};
    };

    int start_of(int thread, int count) const { return int(int64_t(thread) * count / num_threads_); }

    void serve(int thread) {
        current_thread = thread;
        for (unsigned seen = 0;;) {
            for (int spins = 0; spins < SPINS_BETWEEN_STEPS && generation_.load() == seen; ++spins) pause_thread();
            if (generation_.load() == seen) {
                std::unique_lock lock(mutex_);
                num_sleeping_.fetch_add(1);
                woken_.wait(lock, [&] { return generation_.load() != seen; });
                num_sleeping_.fetch_sub(1);
            }
            ++seen;
            if (is_stopping_) return;
            job_(context_, thread);
            barrier();
        }
    }

    void wake() {
        generation_.fetch_add(1);
        if (num_sleeping_.load() > 0) {
            const std::lock_guard lock(mutex_);
            woken_.notify_all();
        }
    }

    void stop() {
        is_stopping_ = true;
        wake();
        for (std::thread& thread : threads_) thread.join();
    }

    const int num_threads_;
    std::vector<std::thread> threads_;
    Job job_ = nullptr;
    void* context_ = nullptr;
    bool is_stopping_ = false;
    std::mutex mutex_;
    std::condition_variable woken_;
    std::atomic<int> num_sleeping_{0};
    alignas(64) std::atomic<unsigned> generation_{0};
    alignas(64) std::atomic<unsigned> round_{0};
    alignas(64) std::atomic<int> arrived_{0};
    const std::unique_ptr<Stretch[]> stretches_;  // [threads]
    static inline thread_local int current_thread = 0;
};

// Runs `body(thread)` on every thread of the pool.
template <class Body>
void run(Pool& pool, Body body) {
    pool.run([](void* context, int thread) { (*static_cast<Body*>(context))(thread); }, &body);
}

}  // namespace camelid
