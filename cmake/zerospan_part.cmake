# zerospan_add_part(<name> PACKAGE <package> [<argument>...] LINK <target>... HEADERS <header>... [PARTS <part>...]
#                   [DEBIAN <package>])
#
# Declares the optional part zerospan::<name>: the headers that need a dependency of their own (a name that begins with
# **/ stands for all headers of that name, wherever they lie), what they link, and the definition ZEROSPAN_HAS_<NAME>.
# ZEROSPAN_WITH_<NAME> governs it: ON requires the package, OFF leaves the part out, and AUTO takes it where it is found if
# zerospan is the top-level project and leaves it out of a subproject. PARTS are those it builds on: without one of them
# there is no package to be found for it.
#
# In the caller's scope ZEROSPAN_PARTS lists the parts there are, ZEROSPAN_PART_HEADERS the headers of every part whether
# it is there or not, and ZEROSPAN_PART_<name>_PACKAGE and _PARTS what find_package is told and what the part builds on.
function(zerospan_add_part name)
  cmake_parse_arguments(PARSE_ARGV 1 part "" "DEBIAN" "PACKAGE;LINK;HEADERS;PARTS")
  string(TOUPPER "${name}" upper)
  set(option ZEROSPAN_WITH_${upper})

  set(${option} AUTO CACHE STRING "The part zerospan::${name}: AUTO (where found, off in a subproject), ON or OFF")
  set_property(CACHE ${option} PROPERTY STRINGS AUTO ON OFF)
  zerospan_find_headers(part_HEADERS ${part_HEADERS})
  set(ZEROSPAN_PART_HEADERS ${ZEROSPAN_PART_HEADERS} ${part_HEADERS} PARENT_SCOPE)

  set(wanted "${${option}}")
  if(wanted STREQUAL "AUTO")
    set(wanted ${PROJECT_IS_TOP_LEVEL})
  endif()
  if(NOT wanted)
    return()
  endif()

  foreach(needed IN LISTS part_PARTS)
    if(NOT TARGET zerospan_${needed})
      zerospan_leave_out("zerospan::${needed}, which it builds on, is left out")
      return()
    endif()
  endforeach()
  find_package(${part_PACKAGE} QUIET GLOBAL)
  list(GET part_PACKAGE 0 package)
  if(NOT ${package}_FOUND)
    zerospan_leave_out("${package} was not found")
    return()
  endif()

  add_library(zerospan_${name} INTERFACE)
  add_library(zerospan::${name} ALIAS zerospan_${name})
  set_target_properties(zerospan_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_definitions(zerospan_${name} INTERFACE ZEROSPAN_HAS_${upper})
  target_link_libraries(zerospan_${name} INTERFACE zerospan ${part_LINK})
  foreach(needed IN LISTS part_PARTS)
    target_link_libraries(zerospan_${name} INTERFACE zerospan_${needed})
  endforeach()
  target_sources(zerospan_${name} INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${part_HEADERS})

  set(ZEROSPAN_PARTS ${ZEROSPAN_PARTS} ${name} PARENT_SCOPE)
  set(ZEROSPAN_PART_${name}_PACKAGE "${part_PACKAGE}" PARENT_SCOPE)
  set(ZEROSPAN_PART_${name}_PARTS "${part_PARTS}" PARENT_SCOPE)
endfunction()

# Replaces **/<pattern> by the headers of that name.
function(zerospan_find_headers result)
  set(headers "")
  foreach(header IN LISTS ARGN)
    if(header MATCHES "^\\*\\*/(.+)$")
      file(GLOB_RECURSE header RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" CONFIGURE_DEPENDS
        include/zerospan/${CMAKE_MATCH_1})
    endif()
    list(APPEND headers ${header})
  endforeach()
  set(${result} ${headers} PARENT_SCOPE)
endfunction()

# Says why zerospan_add_part leaves a part out, as an error if the part is ON.
function(zerospan_leave_out reason)
  if(${option} STREQUAL "AUTO")
    message(STATUS "zerospan::${name} is left out: ${reason}")
    return()
  endif()
  set(debian "")
  if(part_DEBIAN)
    set(debian " (Debian: ${part_DEBIAN})")
  endif()
  message(FATAL_ERROR "${option} is ${${option}}, but ${reason}. Install it${debian}, name its prefix in CMAKE_PREFIX_PATH, "
    "or set ${option}=OFF.")
endfunction()
