# LAPLEX_SANITIZE: the C++ tests under AddressSanitizer with UBSan, or under ThreadSanitizer.
if(LAPLEX_SANITIZE)
  if(NOT LAPLEX_SANITIZE MATCHES "^(address,undefined|thread)$")
    message(FATAL_ERROR "LAPLEX_SANITIZE must be empty, \"address,undefined\" or \"thread\", not \"${LAPLEX_SANITIZE}\".")
  endif()
  if(MSVC)
    message(FATAL_ERROR "LAPLEX_SANITIZE needs GCC or Clang.")
  endif()
  # A finding ends the program: a report that scrolls by and exits 0 is a test that passes.
  add_compile_options(-fsanitize=${LAPLEX_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${LAPLEX_SANITIZE})
endif()
