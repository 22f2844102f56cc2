# CLIP's merges as a part of the library, from where scripts/setup.sh puts them. Without them single
# files need --tokenizer.
set(SARA_CLIP_MERGES ${CMAKE_SOURCE_DIR}/vendor/clip_merges.txt)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${SARA_CLIP_MERGES})
if(EXISTS ${SARA_CLIP_MERGES})
    file(SIZE ${SARA_CLIP_MERGES} SARA_CLIP_MERGES_SIZE)
    set(SARA_CLIP_MERGES_DATA ".incbin \\\"${SARA_CLIP_MERGES}\\\"\\n")
else()
    message(STATUS "vendor/clip_merges.txt is not there: single files will need --tokenizer")
    set(SARA_CLIP_MERGES_SIZE 0)
    set(SARA_CLIP_MERGES_DATA "")
endif()
configure_file(cmake/clip_merges.c.in ${CMAKE_BINARY_DIR}/clip_merges.c @ONLY)
target_sources(sara_models PRIVATE ${CMAKE_BINARY_DIR}/clip_merges.c)
