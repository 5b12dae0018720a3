// Threads that work together with the caller. They are made by the first call that needs them and sleep between calls.
//
// A fork waits for the calls in progress and leaves the child every team whole but without threads: the child's first call
// makes its own.
#pragma once
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "step.h"
#include "tile.h"

// The threads besides the caller.
class Crew {
public:
    explicit Crew(int size) : size(size) {
        try {
            for (int i = 1; i <= size; i++) threads.emplace_back(&Crew::serve, this, i);
        } catch (const std::exception&) {  // no thread, or no memory for it
            const size_t given = threads.size() + 1;  // the caller among them
            dismiss();
            throw std::runtime_error("the system gives only " + std::to_string(given) + " of " + std::to_string(size + 1) + " threads; use fewer");
        }
    }
    ~Crew() { dismiss(); }

    void start(const std::function<void(int)>& work) {
        failure = nullptr;
        begin_round(work, false);
    }
    void attempt(int index) {
        try {
            [[maybe_unused]] const ThreadState state;
            job(index);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex);
        done.wait(lock, [this] { return finished == size; });
        if (failure) std::rethrow_exception(failure);
    }

private:
    void dismiss() {
        begin_round([](int) {}, true);
        for (std::thread& thread : threads) thread.join();
    }

    void begin_round(const std::function<void(int)>& work, bool last) {
        const std::lock_guard<std::mutex> lock(mutex);
        job = work;
        stopping = last;
        finished = 0;
        generation++;
        begin.notify_all();
    }

    void serve(int index) {
        for (int64_t seen = 0;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                begin.wait(lock, [&] { return generation != seen; });
                seen = generation;
                if (stopping) return;
            }
            attempt(index);
            const std::lock_guard<std::mutex> lock(mutex);
            if (++finished == size) done.notify_one();
        }
    }

    const int size;
    vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable begin, done;
    std::function<void(int)> job;
    std::exception_ptr failure;
    int64_t generation = 0;
    int finished = 0;
    bool stopping = false;
};

class Team {
public:
    explicit Team(int size) : size(size) {
        All& all = Team::all();
        const std::lock_guard<std::mutex> lock(all.mutex);
        if (!all.watched) all.watched = pthread_atfork(before_fork, after_fork, after_fork_in_child) == 0;
        all.teams.insert(this);
    }
    ~Team() {
        const std::lock_guard<std::mutex> lock(all().mutex);
        all().teams.erase(this);
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // What a caller holds while it uses the team: one call at a time.
    std::unique_lock<std::mutex> turn() { return std::unique_lock<std::mutex>(calls); }

    // work(0) here and work(1) .. work(size - 1) on the others; returns when all are done. Throws what one of them threw.
    void run(const std::function<void(int)>& work) {
        if (size == 1) {
            [[maybe_unused]] const ThreadState state;
            return work(0);
        }
        if (!crew) crew.reset(new Crew(size - 1));
        crew->start(work);
        crew->attempt(0);
        crew->wait();
    }

    // Every thread calls it; returns when all have. One that waits long sleeps: the others may be waiting for its processor.
    void barrier() {
        if (size == 1) return;
        const int64_t round = rounds.load();
        if (arrived.fetch_add(1) == size - 1) {
            arrived = 0;
            const std::lock_guard<std::mutex> lock(meeting);
            rounds.fetch_add(1);
            met.notify_all();
            return;
        }
        for (int spins = 0; spins < 2100; spins++) {
            if (rounds.load(std::memory_order_acquire) != round) return;
            if (spins >= 2000) std::this_thread::yield();
        }
        std::unique_lock<std::mutex> lock(meeting);
        met.wait(lock, [&] { return rounds.load() != round; });
    }

private:
    struct All {
        std::mutex mutex;
        std::set<Team*> teams;
        bool watched = false;
    };
    static All& all() {
        static All* const all = new All;  // never destroyed: the process may fork while it ends
        return *all;
    }

    static void before_fork() {
        all().mutex.lock();
        for (Team* team : all().teams) team->calls.lock();
    }
    static void after_fork() {
        for (Team* team : all().teams) team->calls.unlock();
        all().mutex.unlock();
    }
    static void after_fork_in_child() {
        // The threads are gone, and what they were waiting on is unusable: the crew is left as it lies.
        for (Team* team : all().teams) static_cast<void>(team->crew.release());
        after_fork();
    }

    const int size;
    std::mutex calls;
    std::unique_ptr<Crew> crew;
    std::mutex meeting;
    std::condition_variable met;
    std::atomic<int> arrived{0};
    std::atomic<int64_t> rounds{0};
};
