# What ZeRO-Infinity has measured, foretold in virtual time: foresight_paper. It needs no machine but a core.
find_package(nlohmann_json CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
set(of_text foresight/paper_foretold.cpp foresight/paper_report.cpp foresight/paper.cpp)
add_executable(foresight_paper foresight/paper_step.cpp foresight/paper_memory.cpp ${of_text})
target_link_libraries(foresight_paper PRIVATE
  zerospan_development zerospan::compiled_sim CLI11::CLI11 fmt::fmt nlohmann_json::nlohmann_json)
set_source_files_properties(${of_text} PROPERTIES COMPILE_OPTIONS -O0)  # slow to compile, quick to run
