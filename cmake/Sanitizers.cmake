# LAPLEX_SANITIZE: the C++ tests under AddressSanitizer with UBSan, or under ThreadSanitizer.
if(LAPLEX_SANITIZE)
  if(NOT LAPLEX_SANITIZE MATCHES "^(address,undefined|thread)$")
    message(FATAL_ERROR "LAPLEX_SANITIZE must be empty, \"address,undefined\" or \"thread\", not \"${LAPLEX_SANITIZE}\".")
  endif()
  if(MSVC)
    message(FATAL_ERROR "LAPLEX_SANITIZE needs GCC or Clang: choose one with CMAKE_CXX_COMPILER, or leave LAPLEX_SANITIZE empty.")
  endif()
  # An error ends the program: otherwise the program would print a report, exit with 0 and pass the test.
  add_compile_options(-fsanitize=${LAPLEX_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${LAPLEX_SANITIZE})
endif()
