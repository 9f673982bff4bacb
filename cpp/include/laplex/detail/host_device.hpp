/// Marks what host and device compile alike.
#pragma once

#if defined(__CUDACC__)
#define LAPLEX_HOST_DEVICE __host__ __device__
#else
#define LAPLEX_HOST_DEVICE
#endif
