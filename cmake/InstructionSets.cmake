# The inner loops once more for each higher instruction set of x86: a file a level, compiled for it
# alone. Which one runs is decided at run time (cpp/src/instruction_set.cpp).
include(CheckCXXCompilerFlag)

# Without LAPLEX_VECTORS (cpp/src/inline.hpp) a level would be the baseline again.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(WARNING "GCC ${CMAKE_CXX_COMPILER_VERSION} has no vector shuffles, so Laplex will compute more slowly: use GCC 12 or later, or Clang.")
# Not under sanitizers: the levels are one code, and instrumented it takes four minutes a file to compile.
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT MSVC AND NOT LAPLEX_SANITIZE)
  foreach(level "avx2;-mavx2" "avx512;-mavx512f;-mavx512vl;-mavx512bw;-mavx512dq;-mprefer-vector-width=512")
    list(POP_FRONT level name)
    string(TOUPPER "${name}" upper)
    string(REPLACE ";" " " flags "${level}")
    check_cxx_compiler_flag("${flags}" LAPLEX_COMPILES_${upper})
    if(LAPLEX_COMPILES_${upper})
      target_sources(laplex PRIVATE src/kernels/${name}.cpp src/gram_kernels/${name}.cpp)
      set_source_files_properties(src/kernels/${name}.cpp src/gram_kernels/${name}.cpp
        PROPERTIES COMPILE_OPTIONS "${level}")
      set_source_files_properties(src/instruction_set.cpp src/gram_kernels/gram_kernels.cpp
        PROPERTIES COMPILE_DEFINITIONS
        "$<$<BOOL:${LAPLEX_COMPILES_AVX2}>:LAPLEX_HAS_AVX2>;$<$<BOOL:${LAPLEX_COMPILES_AVX512}>:LAPLEX_HAS_AVX512>")
    endif()
  endforeach()
endif()
if(LAPLEX_SANITIZE)
  set_property(SOURCE src/gram_derivatives.cpp src/kernels/baseline.cpp src/moments.cpp
    APPEND PROPERTY COMPILE_OPTIONS -O0)
endif()
# The kernels pass vectors to inlined functions alone: how a call would pass them does not matter.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set_property(SOURCE src/kernels/baseline.cpp src/kernels/avx2.cpp src/kernels/avx512.cpp
    src/gram_kernels/baseline.cpp src/gram_kernels/avx2.cpp src/gram_kernels/avx512.cpp
    APPEND PROPERTY COMPILE_OPTIONS -Wno-psabi)
endif()
