# LAPLEX_CUDA: AUTO builds the CUDA backend if there is a compiler for it, ON fails if there is none, and
# OFF does not look for one.
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
      message(FATAL_ERROR "LAPLEX_CUDA=ON needs nvcc 12.8 or later, the first that supports sm_120, but found "
                          "${CMAKE_CUDA_COMPILER_VERSION}: install a later CUDA toolkit, or use LAPLEX_CUDA=OFF.")
    endif()
  elseif(LAPLEX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LAPLEX_CUDA=ON, but no CUDA compiler was found: put nvcc on the PATH, set CUDACXX to "
                        "it, or use LAPLEX_CUDA=AUTO to build for the CPU only.")
  endif()
endif()

if(LAPLEX_HAS_CUDA)
  # The default is the GPUs of this machine. Without any, it is a choice that compiles in three minutes on
  # two cores: machine code for compute capability 9.0, and PTX of 7.5, which the driver translates for every
  # other GPU when it is first used. "release" is all architectures, for wheels that are distributed: a
  # quarter of an hour.
  set(LAPLEX_CUDA_ARCHITECTURES "" CACHE STRING
    "GPU architectures: a list as in CMAKE_CUDA_ARCHITECTURES, or \"release\" for all; empty: those of this machine, or 9.0 and PTX of 7.5")
  if(LAPLEX_CUDA_ARCHITECTURES STREQUAL "release")
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90 100-real 120)
  elseif(LAPLEX_CUDA_ARCHITECTURES)
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
      set(CMAKE_CUDA_ARCHITECTURES 75-virtual 90-real)
    endif()
  endif()
  set(laplex_architectures ${CMAKE_CUDA_ARCHITECTURES})
  if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native" AND CMAKE_CUDA_ARCHITECTURES_NATIVE)
    set(laplex_architectures ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
  endif()
  list(JOIN laplex_architectures ", " LAPLEX_ARCHITECTURES) # for `laplex info`
  message(STATUS "Laplex ${PROJECT_VERSION}: CPU and CUDA ${CMAKE_CUDA_COMPILER_VERSION}, "
                 "for architectures ${LAPLEX_ARCHITECTURES}")
else()
  message(STATUS "Laplex ${PROJECT_VERSION}: CPU only (LAPLEX_CUDA=${LAPLEX_CUDA})")
endif()
