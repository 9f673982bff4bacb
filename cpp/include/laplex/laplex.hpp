/// \file
/// All public headers of the CPU library.
#pragma once

#include <laplex/error.hpp>
#include <laplex/gram.hpp>
#include <laplex/instruction_set.hpp>
#include <laplex/interrupt.hpp>
#include <laplex/line_part.hpp>
#include <laplex/plan.hpp>
#include <laplex/process.hpp>
#include <laplex/threads.hpp>
#include <laplex/version.hpp>

/// \namespace laplex
/// Learnable Laplace kernels `exp(-|x_i - y_j| / lengthscale)`, applied exactly: O(n log n) to sort
/// the anchors, then O(n) for every product.
