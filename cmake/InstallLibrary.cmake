# Installs the C++ library so that find_package(laplex) works: component `development`.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(laplex_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/laplex")

set(laplex_targets laplex)
set(laplex_headers "${PROJECT_SOURCE_DIR}/cpp/include/" "${PROJECT_BINARY_DIR}/cpp/include/")
if(LAPLEX_HAS_CUDA)
  list(APPEND laplex_targets laplex_cuda)
  list(APPEND laplex_headers "${PROJECT_SOURCE_DIR}/cuda/include/")
endif()
install(
  TARGETS ${laplex_targets}
  EXPORT laplexTargets
  COMPONENT development)
install(
  DIRECTORY ${laplex_headers}
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  COMPONENT development
  FILES_MATCHING
  PATTERN "*.hpp")
install(
  EXPORT laplexTargets
  NAMESPACE laplex::
  DESTINATION "${laplex_cmake_dir}"
  COMPONENT development)

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/laplexConfig.cmake.in" "${PROJECT_BINARY_DIR}/laplexConfig.cmake"
  INSTALL_DESTINATION "${laplex_cmake_dir}")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/laplexConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(
  FILES "${PROJECT_BINARY_DIR}/laplexConfig.cmake" "${PROJECT_BINARY_DIR}/laplexConfigVersion.cmake"
  DESTINATION "${laplex_cmake_dir}"
  COMPONENT development)
