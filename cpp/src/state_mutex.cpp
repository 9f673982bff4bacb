#include "state_mutex.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace laplex::detail {
namespace {

struct ForkSafeMutex {
  std::mutex mutex;

  ForkSafeMutex() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork([] { state_mutex().lock(); }, [] { state_mutex().unlock(); },
                   [] { state_mutex().unlock(); });
#endif
  }
};

}  // namespace

std::mutex& state_mutex() {
  static ForkSafeMutex instance;
  return instance.mutex;
}

}  // namespace laplex::detail
