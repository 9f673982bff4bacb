# LAPLEX_CUDA: AUTO builds the CUDA backend where there is a compiler for it, ON fails without one, OFF
# does not look.
if(NOT LAPLEX_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "LAPLEX_CUDA must be AUTO, ON or OFF, not \"${LAPLEX_CUDA}\".")
endif()

set(LAPLEX_HAS_CUDA OFF)
if(LAPLEX_CUDA MATCHES "^(AUTO|ON)$")
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 75) # for the check of the compiler alone
    set(laplex_chooses_architectures ON)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      set(LAPLEX_HAS_CUDA ON)
    elseif(LAPLEX_CUDA STREQUAL "ON")
      message(FATAL_ERROR "LAPLEX_CUDA=ON needs nvcc 12.8 or later, the first for sm_120; this one is "
                          "${CMAKE_CUDA_COMPILER_VERSION}.")
    endif()
  elseif(LAPLEX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LAPLEX_CUDA=ON, but no CUDA compiler was found: put nvcc on the PATH, set CUDACXX to "
                        "it, or use LAPLEX_CUDA=AUTO to build for the CPU alone.")
  endif()
endif()

if(LAPLEX_HAS_CUDA)
  # For the GPUs that are here, which takes two minutes of compiling; without any, for all there are, which
  # takes a quarter of an hour. 90 and 120 come as PTX too: for what is newer.
  set(LAPLEX_CUDA_ARCHITECTURES "" CACHE STRING
    "GPU architectures: a list as of CMAKE_CUDA_ARCHITECTURES; empty: of the GPUs here, or all")
  if(LAPLEX_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${LAPLEX_CUDA_ARCHITECTURES})
  elseif(laplex_chooses_architectures)
    find_program(LAPLEX_NVIDIA_SMI nvidia-smi)
    set(status 1)
    if(LAPLEX_NVIDIA_SMI)
      execute_process(COMMAND ${LAPLEX_NVIDIA_SMI} -L RESULT_VARIABLE status OUTPUT_VARIABLE gpus ERROR_QUIET)
    endif()
    if(status EQUAL 0 AND gpus MATCHES "GPU 0")
      set(CMAKE_CUDA_ARCHITECTURES native)
    else()
      set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90 100-real 120)
    endif()
  endif()
  message(STATUS "Laplex ${PROJECT_VERSION}: CPU and CUDA ${CMAKE_CUDA_COMPILER_VERSION}, "
                 "architectures ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "Laplex ${PROJECT_VERSION}: CPU only (LAPLEX_CUDA=${LAPLEX_CUDA})")
endif()
