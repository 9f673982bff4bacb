# The warnings our own code compiles without; errors in CI (LAPLEX_WERROR).
if(MSVC)
  add_compile_options(/W4 /permissive- $<$<BOOL:${LAPLEX_WERROR}>:/WX>)
else()
  set(warnings
    -Wall
    -Wextra
    -Wpedantic
    -Wconversion # a size cut to 32 bits, a double to a float
    -Wshadow
    -Wnon-virtual-dtor
    $<$<BOOL:${LAPLEX_WERROR}>:-Werror>)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${warnings}>")
  # What nvcc hands to the host's compiler is not what was written: its own warnings are those that count.
  add_compile_options("$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${LAPLEX_WERROR}>>:-Werror=all-warnings>")
endif()
