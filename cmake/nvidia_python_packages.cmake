# nvidia_python_packages(<result> <folder>...): where Python's packages put NVIDIA's libraries: those of the folders
# <somewhere on Python's path>/nvidia/<folder> that exist.
function(nvidia_python_packages result)
  find_program(ZEROSPAN_PYTHON python3)
  mark_as_advanced(ZEROSPAN_PYTHON)
  set(found "")
  if(ZEROSPAN_PYTHON)
    execute_process(COMMAND "${ZEROSPAN_PYTHON}" -c "import sys; print(';'.join(filter(None, sys.path)))"
      OUTPUT_VARIABLE places OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    foreach(place IN LISTS places)
      foreach(folder IN LISTS ARGN)
        if(IS_DIRECTORY "${place}/nvidia/${folder}")
          list(APPEND found "${place}/nvidia/${folder}")
        endif()
      endforeach()
    endforeach()
  endif()
  set(${result} ${found} PARENT_SCOPE)
endfunction()
