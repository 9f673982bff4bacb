# The warnings our own code compiles without; errors in CI (LAPLEX_WERROR).
if(MSVC)
  add_compile_options(/W4 /permissive- $<$<BOOL:${LAPLEX_WERROR}>:/WX>)
else()
  add_compile_options(
    -Wall
    -Wextra
    -Wpedantic
    -Wconversion # a size cut to 32 bits, a double to a float
    -Wshadow
    -Wnon-virtual-dtor
    $<$<BOOL:${LAPLEX_WERROR}>:-Werror>)
endif()
