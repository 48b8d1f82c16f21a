# Finds cuFile, the library of GPUDirect Storage: the target cufile::cufile. It lies beside the CUDA toolkit, in a
# system's path, or in a Python package.

find_package(CUDAToolkit QUIET)
include("${CMAKE_CURRENT_LIST_DIR}/nvidia_python_packages.cmake")
nvidia_python_packages(places cufile cu13)

find_library(cufile_LIBRARY NAMES cufile libcufile.so.0 HINTS ${CUDAToolkit_LIBRARY_DIR} PATHS ${places}
  PATH_SUFFIXES lib)
cmake_path(GET cufile_LIBRARY PARENT_PATH beside)
find_path(cufile_INCLUDE_DIR cufile.h HINTS "${beside}/../include" ${CUDAToolkit_INCLUDE_DIRS} PATHS ${places}
  PATH_SUFFIXES include)
mark_as_advanced(cufile_LIBRARY cufile_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(cufile REQUIRED_VARS cufile_LIBRARY cufile_INCLUDE_DIR)

if(cufile_FOUND AND NOT TARGET cufile::cufile)
  add_library(cufile::cufile UNKNOWN IMPORTED)
  set_target_properties(cufile::cufile PROPERTIES
    IMPORTED_LOCATION "${cufile_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${cufile_INCLUDE_DIR}")
endif()
