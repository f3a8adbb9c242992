# For CMake 3.25 and later: rewrites programs after they are linked.
#
#     find_package(AllocsRewrite REQUIRED)
#     add_executable(app main.c)
#     allocs_rewrite(app)
#     install(TARGETS app)           # installs what was rewritten
#
# It provides
#
#     allocs_rewrite(TARGET [RUNTIME NAME])
#         makes the program start the runtime first. NAME is a soname, an absolute path, or $ORIGIN/...
#     AllocsRewrite::allocs
#         a target that has allocs.h, for programs that ask the runtime. There is nothing to link with.
#
# Variables that can be set before find_package:
#
#     AllocsRewrite_EXECUTABLE   the tool, for the machine that builds: by default the one of this package
#     AllocsRewrite_RUNTIME      NAME where none is given. By default it is the soname, which the loader finds in
#                                /usr/lib and which is right for another system (CMAKE_SYSROOT) too; if this
#                                package is somewhere else, it is the path of its runtime.

# This file is in PREFIX/lib/cmake/AllocsRewrite, whichever link to it CMake took (/lib is one).
file(REAL_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." _allocs_prefix)

if(NOT AllocsRewrite_EXECUTABLE)
  cmake_path(APPEND _allocs_prefix bin allocs-rewrite OUTPUT_VARIABLE AllocsRewrite_EXECUTABLE)
endif()
if(NOT EXISTS "${AllocsRewrite_EXECUTABLE}")
  set(AllocsRewrite_FOUND FALSE)
  set(AllocsRewrite_NOT_FOUND_MESSAGE "there is no ${AllocsRewrite_EXECUTABLE}: set AllocsRewrite_EXECUTABLE")
  return()
endif()

if(NOT AllocsRewrite_RUNTIME)
  set(AllocsRewrite_RUNTIME liballocs_rt.so.1)
  if(NOT _allocs_prefix STREQUAL "/usr" AND NOT CMAKE_CROSSCOMPILING AND NOT CMAKE_SYSROOT)
    file(GLOB _allocs_runtime "${_allocs_prefix}/lib*/liballocs_rt.so.1" "${_allocs_prefix}/lib/*/liballocs_rt.so.1")
    if(_allocs_runtime)
      list(GET _allocs_runtime 0 AllocsRewrite_RUNTIME)
    endif()
  endif()
endif()

if(NOT TARGET AllocsRewrite::allocs)
  add_library(AllocsRewrite::allocs INTERFACE IMPORTED)
  # Not in /usr/include, where compilers look anyway: there, a sysroot's own headers have to come first.
  if(NOT _allocs_prefix STREQUAL "/usr")
    target_include_directories(AllocsRewrite::allocs INTERFACE "${_allocs_prefix}/include")
  endif()
endif()
unset(_allocs_prefix)
unset(_allocs_runtime)

function(allocs_rewrite target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" RUNTIME "")
  if(DEFINED arg_UNPARSED_ARGUMENTS OR DEFINED arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "allocs_rewrite(TARGET [RUNTIME NAME]) does not take: "
      "${arg_UNPARSED_ARGUMENTS}${arg_KEYWORDS_MISSING_VALUES}")
  endif()
  if(NOT TARGET "${target}")
    message(FATAL_ERROR "allocs_rewrite: there is no target ${target}")
  endif()
  get_target_property(type "${target}" TYPE)
  if(NOT type STREQUAL "EXECUTABLE")
    message(FATAL_ERROR "allocs_rewrite: ${target} is no executable but a ${type}: "
      "the loader takes a runtime from executables only")
  endif()
  set(runtime "${AllocsRewrite_RUNTIME}")
  if(arg_RUNTIME)
    set(runtime "${arg_RUNTIME}")
  endif()

  # A link gives the program as it was, so a link is what is due when the tool or the runtime has changed.
  set_property(TARGET "${target}" APPEND PROPERTY LINK_DEPENDS "${AllocsRewrite_EXECUTABLE}")
  if(IS_ABSOLUTE "${runtime}" AND EXISTS "${runtime}")
    set_property(TARGET "${target}" APPEND PROPERTY LINK_DEPENDS "${runtime}")
  endif()
  add_custom_command(TARGET "${target}" POST_BUILD
    COMMAND "${AllocsRewrite_EXECUTABLE}" --quiet --in-place=direct --runtime "${runtime}" "$<TARGET_FILE:${target}>"
    COMMENT "Making ${target} start ${runtime} first"
    VERBATIM)
endfunction()
