# Installs the headers and the package that find_package(zerospan) reads. Each part is exported by itself, so that a
# machine without a part's dependency still finds everything else.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_directory "${CMAKE_INSTALL_LIBDIR}/cmake/zerospan")

function(zerospan_install_target target export)
  install(TARGETS ${target} EXPORT ${export} FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(EXPORT ${export} NAMESPACE zerospan:: DESTINATION "${package_directory}")
endfunction()

zerospan_install_target(zerospan zerospanTargets)
set(import_parts "")
foreach(part IN LISTS ZEROSPAN_PARTS)
  zerospan_install_target(zerospan_${part} zerospan-${part}-targets)
  list(JOIN ZEROSPAN_PART_${part}_PACKAGE " " package)
  string(APPEND import_parts "zerospan_import_part(${part} \"${ZEROSPAN_PART_${part}_PARTS}\" ${package})\n")
endforeach()

configure_package_config_file(cmake/zerospanConfig.cmake.in zerospanConfig.cmake
  INSTALL_DESTINATION "${package_directory}")
write_basic_package_version_file(zerospanConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(
  FILES
    "${CMAKE_CURRENT_BINARY_DIR}/zerospanConfig.cmake"
    "${CMAKE_CURRENT_BINARY_DIR}/zerospanConfigVersion.cmake"
    cmake/Findcufile.cmake
    cmake/Finddlpack.cmake
    cmake/Findlibaio.cmake
    cmake/Findliburing.cmake
    cmake/Findnccl.cmake
    cmake/Findxxhash.cmake
    cmake/nvidia_python_packages.cmake
  DESTINATION "${package_directory}")
