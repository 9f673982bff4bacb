/// Laplex: learnable Laplace kernels exp(-|x_i - y_j| / lengthscale), applied exactly in O(n log
/// n).
#pragma once

#include <laplex/error.hpp>
#include <laplex/gram.hpp>
#include <laplex/instruction_set.hpp>
#include <laplex/interrupt.hpp>
#include <laplex/plan.hpp>
#include <laplex/threads.hpp>
#include <laplex/version.hpp>
