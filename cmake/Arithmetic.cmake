# Floating point exactly as written, on every compiler.
#
# Results are promised bit for bit whatever the number of threads, and the sums use error-free
# transformations (two-sum). A compiler that contracts a*b + c into one rounding here and not there, or
# that reassociates, breaks both: no contraction, and never -ffast-math.
if(MSVC)
  add_compile_options(/fp:precise)
else()
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
endif()
if("${CMAKE_CXX_FLAGS} $ENV{CXXFLAGS}" MATCHES "-ffast-math|-Ofast|/fp:fast")
  message(FATAL_ERROR "Laplex cannot be built with -ffast-math, -Ofast or /fp:fast, which change its results: remove the option from CMAKE_CXX_FLAGS or CXXFLAGS.")
endif()
