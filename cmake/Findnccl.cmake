# Finds NCCL, NVIDIA's collectives: the target nccl::nccl. It lies in a system's path, beside the CUDA toolkit, or in a
# Python package.

find_package(CUDAToolkit QUIET)
include("${CMAKE_CURRENT_LIST_DIR}/nvidia_python_packages.cmake")
nvidia_python_packages(places nccl)

find_library(nccl_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR} PATHS ${places} PATH_SUFFIXES lib)
cmake_path(GET nccl_LIBRARY PARENT_PATH beside)
find_path(nccl_INCLUDE_DIR nccl.h HINTS "${beside}/../include" ${CUDAToolkit_INCLUDE_DIRS} PATHS ${places}
  PATH_SUFFIXES include)
mark_as_advanced(nccl_LIBRARY nccl_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(nccl REQUIRED_VARS nccl_LIBRARY nccl_INCLUDE_DIR)

if(nccl_FOUND AND NOT TARGET nccl::nccl)
  add_library(nccl::nccl UNKNOWN IMPORTED)
  set_target_properties(nccl::nccl PROPERTIES
    IMPORTED_LOCATION "${nccl_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${nccl_INCLUDE_DIR}")
endif()
