# The plain kernels once more in double, for the tests that compare them with finite differences:
# tests/nn/test_*_double.c are compiled with SARA_DOUBLE and see only that table.
file(GLOB double_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/nn/*_cpu.c)
if(double_kernels)
    add_library(sara_nn_double STATIC ${double_kernels})
    target_include_directories(sara_nn_double PUBLIC ${CMAKE_SOURCE_DIR}/src
                                                     ${CMAKE_SOURCE_DIR}/include)
    target_compile_definitions(sara_nn_double PUBLIC SARA_DOUBLE)
    target_link_libraries(sara_nn_double PUBLIC sara_core_archive)

    file(GLOB double_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/nn/test_*_double.c)
    foreach(source ${double_tests})
        get_filename_component(name ${source} NAME_WE)
        target_link_libraries(${name} PRIVATE sara_nn_double)
    endforeach()
endif()
