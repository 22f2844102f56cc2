# Everything that libsara links, as one interface target.
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(PkgConfig REQUIRED)
foreach(module jansson:jansson png:libpng jpeg:libjpeg webp:libwebp
               utf8proc:libutf8proc crypto:libcrypto lapacke:lapacke)
    string(REGEX MATCH "^[^:]+" name ${module})
    string(REGEX REPLACE "^[^:]+:" "" package ${module})
    pkg_check_modules(${name} REQUIRED IMPORTED_TARGET ${package})
endforeach()
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.h REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)

add_library(sara_dependencies INTERFACE)
target_include_directories(sara_dependencies INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(sara_dependencies INTERFACE OpenMP::OpenMP_C PkgConfig::jansson PkgConfig::png
                      PkgConfig::jpeg PkgConfig::webp PkgConfig::utf8proc
                      PkgConfig::crypto PkgConfig::lapacke ${DNNL_LIBRARY} m)
