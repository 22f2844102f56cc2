# tests/cli/test_*.py run the program as a user does: python3's standard library and, for failing
# input and output, a small shared object that is preloaded.
if(NOT Python3_FOUND)
    message(FATAL_ERROR "the tests of the command line need python3")
endif()

add_library(test_fail_io MODULE ${CMAKE_CURRENT_SOURCE_DIR}/cli/fail_io.c)
set_target_properties(test_fail_io PROPERTIES PREFIX "" C_VISIBILITY_PRESET default)
# It defines open() and open64() both, which large-file support would make one.
target_compile_options(test_fail_io PRIVATE -U_FILE_OFFSET_BITS)
target_link_libraries(test_fail_io PRIVATE ${CMAKE_DL_LIBS})

set(cli_preload $<TARGET_FILE:test_fail_io>)
if(SARA_SANITIZE)
    # fail_io.c itself is plain: it also runs before the runtime is ready.
    target_compile_options(test_fail_io PRIVATE -fno-sanitize=all)
    set_target_properties(test_fail_io PROPERTIES LINK_OPTIONS "-fno-sanitize=all")
    # gcc's runtime is a shared library and has to be the first that is loaded; clang's is part of
    # the program.
    if(CMAKE_C_COMPILER_ID STREQUAL GNU)
        execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=libasan.so
                        OUTPUT_VARIABLE cli_asan OUTPUT_STRIP_TRAILING_WHITESPACE)
        set(cli_preload "${cli_asan} ${cli_preload}")
    endif()
endif()

set(cli_environment
    SARA_PROGRAM=$<TARGET_FILE:sara_program> SARA_LIBRARY=$<TARGET_FILE:sara>
    SARA_FAIL_IO=${cli_preload} SARA_SANITIZE=$<BOOL:${SARA_SANITIZE}>
    ASAN_OPTIONS=detect_leaks=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive)
file(GLOB cli_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cli/test_*.py)
foreach(source ${cli_tests})
    get_filename_component(name ${source} NAME_WE)
    add_test(NAME cli/${name} COMMAND ${Python3_EXECUTABLE} ${source})
    set_tests_properties(cli/${name} PROPERTIES TIMEOUT 900 ENVIRONMENT
        "${cli_environment}")
endforeach()

# Two versions of the program side by side: here with itself, and with one that alters a result.
add_test(NAME scripts/test_compare_commits COMMAND ${Python3_EXECUTABLE}
         ${CMAKE_CURRENT_SOURCE_DIR}/scripts/test_compare_commits.py)
set_tests_properties(scripts/test_compare_commits PROPERTIES TIMEOUT 600 ENVIRONMENT
    "${cli_environment}")

# A host program that has set a locale, as programs with a user interface do.
add_executable(test_locale_host ${CMAKE_CURRENT_SOURCE_DIR}/cli/locale_host.c)
target_link_libraries(test_locale_host PRIVATE sara)
set_property(TEST cli/test_locale APPEND PROPERTY ENVIRONMENT
             "SARA_LOCALE_HOST=$<TARGET_FILE:test_locale_host>" LOCPATH=${locales})
set_property(TEST cli/test_locale PROPERTY FIXTURES_REQUIRED locales)

# Lines whose numbers a run of the program would not show.
add_executable(test_progress_lines ${CMAKE_CURRENT_SOURCE_DIR}/cli/progress_lines.c
                                   ${CMAKE_SOURCE_DIR}/src/cli/progress.c)
target_include_directories(test_progress_lines PRIVATE ${CMAKE_SOURCE_DIR}/include)
target_link_libraries(test_progress_lines PRIVATE PkgConfig::cmocka m)
add_test(NAME cli/progress_lines COMMAND test_progress_lines)

# The program with a table of families of its own, which has one more (tests/family/).
file(GLOB family_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/family/*.c)
add_executable(test_family_program ${cli_sources} ${family_sources})
set_target_properties(test_family_program PROPERTIES OUTPUT_NAME sara-family)
target_include_directories(test_family_program PRIVATE ${CMAKE_SOURCE_DIR}/src/cli)
target_link_libraries(test_family_program PRIVATE sara_compare_archive sara_check_archive
                      PkgConfig::jansson m)
set_property(TEST cli/test_family APPEND PROPERTY ENVIRONMENT
             "SARA_FAMILY_PROGRAM=$<TARGET_FILE:test_family_program>")
