# LAPLEX_CUDA: reserved. AUTO and OFF build for the CPU; ON must not quietly give less than it says.
if(NOT LAPLEX_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LAPLEX_CUDA must be AUTO, ON or OFF, not \"${LAPLEX_CUDA}\".")
elseif(LAPLEX_CUDA STREQUAL "ON")
  message(FATAL_ERROR "LAPLEX_CUDA=ON: this version of Laplex has no CUDA backend yet; use AUTO or OFF.")
else()
  message(STATUS "Laplex ${PROJECT_VERSION}: CPU only (LAPLEX_CUDA=${LAPLEX_CUDA}; no CUDA backend in this version)")
endif()
