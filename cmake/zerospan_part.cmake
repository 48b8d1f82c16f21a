# zerospan_add_part(<name> PACKAGE <package> [<argument>...] LINK <target>... HEADERS <header>... [DEBIAN <package>])
#
# Declares the optional part zerospan::<name>: the headers that need a dependency of their own, what they link, and the
# definition ZEROSPAN_HAS_<NAME>. ZEROSPAN_WITH_<NAME> governs it: ON requires the package, OFF leaves the part out, and
# AUTO takes it where it is found if zerospan is the top-level project and leaves it out of a subproject.
#
# In the caller's scope ZEROSPAN_PARTS lists the parts there are, ZEROSPAN_PART_HEADERS the headers of every part whether
# it is there or not, and ZEROSPAN_PART_<name>_PACKAGE what find_package is told.
function(zerospan_add_part name)
  cmake_parse_arguments(PARSE_ARGV 1 part "" "DEBIAN" "PACKAGE;LINK;HEADERS")
  string(TOUPPER "${name}" upper)
  set(option ZEROSPAN_WITH_${upper})

  set(${option} AUTO CACHE STRING "The part zerospan::${name}: AUTO (where found, off in a subproject), ON or OFF")
  set_property(CACHE ${option} PROPERTY STRINGS AUTO ON OFF)
  set(ZEROSPAN_PART_HEADERS ${ZEROSPAN_PART_HEADERS} ${part_HEADERS} PARENT_SCOPE)

  set(wanted "${${option}}")
  if(wanted STREQUAL "AUTO")
    set(wanted ${PROJECT_IS_TOP_LEVEL})
  endif()
  if(NOT wanted)
    return()
  endif()

  find_package(${part_PACKAGE} QUIET GLOBAL)
  list(GET part_PACKAGE 0 package)
  if(NOT ${package}_FOUND)
    if(NOT ${option} STREQUAL "AUTO")
      message(FATAL_ERROR "${option} is ${${option}}, but ${package} was not found. Install it (Debian: ${part_DEBIAN}), "
        "name its prefix in CMAKE_PREFIX_PATH, or set ${option}=OFF.")
    endif()
    message(STATUS "zerospan::${name} is left out: ${package} was not found")
    return()
  endif()

  add_library(zerospan_${name} INTERFACE)
  add_library(zerospan::${name} ALIAS zerospan_${name})
  set_target_properties(zerospan_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_definitions(zerospan_${name} INTERFACE ZEROSPAN_HAS_${upper})
  target_link_libraries(zerospan_${name} INTERFACE zerospan ${part_LINK})
  target_sources(zerospan_${name} INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${part_HEADERS})

  set(ZEROSPAN_PARTS ${ZEROSPAN_PARTS} ${name} PARENT_SCOPE)
  set(ZEROSPAN_PART_${name}_PACKAGE "${part_PACKAGE}" PARENT_SCOPE)
endfunction()
