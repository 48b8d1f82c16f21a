# Finds DLPack, the tensor structure that frameworks exchange: the target dlpack::dlpack.

find_path(dlpack_INCLUDE_DIR dlpack/dlpack.h)
mark_as_advanced(dlpack_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(dlpack REQUIRED_VARS dlpack_INCLUDE_DIR)

if(dlpack_FOUND AND NOT TARGET dlpack::dlpack)
  add_library(dlpack::dlpack INTERFACE IMPORTED)
  set_target_properties(dlpack::dlpack PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${dlpack_INCLUDE_DIR}")
endif()
