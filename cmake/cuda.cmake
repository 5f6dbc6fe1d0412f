# The CUDA modules, opened at run time beside the addon or executable: noema-cuda.so where nvcc is, and
# noema-cuda-emulated.so, the same sources by the C++ compiler over native/cuda/emulation.

file(GLOB NOEMA_CUDA_SOURCES CONFIGURE_DEPENDS native/cuda/*.cu)

# --- emulation -------------------------------------------------------------------------------------------------------

file(GLOB NOEMA_EMULATION CONFIGURE_DEPENDS native/cuda/emulation/*.cpp)
set_source_files_properties(${NOEMA_CUDA_SOURCES} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
add_library(noema-emulation OBJECT EXCLUDE_FROM_ALL ${NOEMA_EMULATION})
target_include_directories(noema-emulation PUBLIC native/include native/cuda native/cuda/emulation)
add_library(noema-cuda-emulated MODULE EXCLUDE_FROM_ALL ${NOEMA_CUDA_SOURCES} $<TARGET_OBJECTS:noema-emulation>)
set_target_properties(noema-cuda-emulated PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
target_include_directories(noema-cuda-emulated PRIVATE native/include native/cuda native/cuda/emulation)
target_compile_definitions(noema-cuda-emulated PRIVATE NOEMA_MODULE_NAME="cuda-emulated")
target_compile_options(noema-cuda-emulated PRIVATE -Wno-unused-parameter)

# The same again under address and undefined-behaviour sanitizers, for a test run with the sanitizer's library loaded first.
if(NOT NOEMA_SANITIZE)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(NOEMA_ASAN_NAME libasan.so)
  else()
    set(NOEMA_ASAN_NAME libclang_rt.asan-${CMAKE_SYSTEM_PROCESSOR}.so)
    set(NOEMA_ASAN_FLAGS -shared-libasan)
  endif()
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=${NOEMA_ASAN_NAME} OUTPUT_VARIABLE NOEMA_ASAN_LIBRARY OUTPUT_STRIP_TRAILING_WHITESPACE)
  add_library(noema-cuda-sanitized MODULE EXCLUDE_FROM_ALL ${NOEMA_CUDA_SOURCES} ${NOEMA_EMULATION})
  set_target_properties(noema-cuda-sanitized PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  target_include_directories(noema-cuda-sanitized PRIVATE native/include native/cuda native/cuda/emulation)
  target_compile_definitions(noema-cuda-sanitized PRIVATE NOEMA_MODULE_NAME="cuda-emulated")
  target_compile_options(noema-cuda-sanitized PRIVATE -Wno-unused-parameter -O1 -g1 -fno-omit-frame-pointer
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=vptr)
  target_link_options(noema-cuda-sanitized PRIVATE -fsanitize=address,undefined ${NOEMA_ASAN_FLAGS})
  file(WRITE ${CMAKE_BINARY_DIR}/asan-library.txt "${NOEMA_ASAN_LIBRARY}")
endif()

# --- nvcc ------------------------------------------------------------------------------------------------------------

find_program(NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
if(NVCC)
  set(NOEMA_CUDA_TARGETS
    -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_89,code=sm_89 -gencode=arch=compute_90a,code=sm_90a
    -gencode=arch=compute_90,code=compute_90)
  # Compressed, and without line numbers: 54 MB would be 7. NOEMA_CUDA_LINES=ON for compute-sanitizer and profilers.
  option(NOEMA_CUDA_LINES "Keep line numbers in the CUDA kernels" OFF)
  # -fmad=false: a sum that several kernels make must be the same in all of them, so none is fused but by fmaf, as in the emulation.
  set(NVCC_FLAGS -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Xcompiler=-fPIC,-fvisibility=hidden -Xptxas=-v -Xfatbin=-compress-all
    -I${CMAKE_SOURCE_DIR}/native/include -I${CMAKE_SOURCE_DIR}/native/cuda -I${CMAKE_SOURCE_DIR}/native/cuda/hardware
    -DNOEMA_MODULE_NAME="cuda")
  if(NOEMA_CUDA_LINES)
    list(APPEND NVCC_FLAGS -lineinfo)
  endif()
  set(NOEMA_CUDA_OBJECTS)
  foreach(source ${NOEMA_CUDA_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    # ptxas tells registers and spills of every kernel; the report is kept beside the object.
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
      COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/nvcc.sh ${object}.report ${NVCC} ${NVCC_FLAGS} ${NOEMA_CUDA_TARGETS} -MD -MF ${object}.d -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d VERBATIM COMMENT "nvcc ${name}.cu")
    list(APPEND NOEMA_CUDA_OBJECTS ${object})
  endforeach()
  if(CMAKE_RUNTIME_OUTPUT_DIRECTORY)
    set(NOEMA_CUDA_MODULE ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/noema-cuda.so)
  else()
    set(NOEMA_CUDA_MODULE ${CMAKE_BINARY_DIR}/noema-cuda.so)
  endif()
  add_custom_command(OUTPUT ${NOEMA_CUDA_MODULE}
    COMMAND ${NVCC} -shared -cudart static ${NOEMA_CUDA_OBJECTS} -o ${NOEMA_CUDA_MODULE}
    DEPENDS ${NOEMA_CUDA_OBJECTS} VERBATIM COMMENT "linking noema-cuda.so")
  add_custom_target(noema-cuda DEPENDS ${NOEMA_CUDA_MODULE})
endif()
