// SPDX-License-Identifier: Apache-2.0

// The narrow C surface between Go and ONNX Runtime: whole runs cross it, not single calls, since every crossing costs.
// Functions that can fail return NULL or an error text that the caller frees with free().
#ifndef CONCORD_ORT_API_H
#define CONCORD_ORT_API_H

#include <stddef.h>
#include <stdint.h>

// One input or output of a graph, as its file declares it. The name and dims belong to ONNX Runtime's allocator and to malloc.
typedef struct {
  char *name;
  int32_t kind;      // ONNXType: 1 is a tensor
  int32_t dtype;     // ONNXTensorElementDataType
  int32_t has_shape; // 0: not even the rank is known
  size_t rank;
  int64_t *dims; // -1 where the graph leaves the length open
} concord_io;

typedef struct {
  void *session;
  size_t input_count, output_count;
  concord_io *inputs, *outputs;
  void *pinned_memory, *pinned; // on a GPU: memory that it reads and writes directly, and its allocator
  size_t cpu_nodes;             // on a GPU: nodes of the graph that run on the CPU
} concord_session;

// A tensor on its way in. Numbers: data holds size bytes. Strings: data holds them one after the other, offsets where each
// begins and, last, where the last ends.
typedef struct {
  int32_t dtype;
  size_t rank;
  const int64_t *dims;
  const void *data;
  size_t size;
  const size_t *offsets;
} concord_in;

// A tensor on its way out. Numbers: data points into ONNX Runtime's memory. Strings: data and offsets are malloced.
typedef struct {
  void *value;
  int32_t dtype;
  size_t rank;
  int64_t *dims;
  const void *data;
  size_t size;
  size_t count; // elements
  size_t *offsets;
} concord_out;

// A file that the graph's external initializers may name.
typedef struct {
  const char *name;
  const void *data;
  size_t size;
} concord_file;

// Opens the library once for the process. *version is the library's own, also where it is not the wanted one and the call fails.
char *concord_ort_open(const char *path, const char *want, const char **version);

// device is the number of the GPU, or one of these.
enum { CONCORD_CPU = -1, CONCORD_CPU_BOUND = -2 }; // the second runs on the CPU by the path of a GPU: for tests
char *concord_ort_load(const void *graph, size_t size, const concord_file *files, size_t file_count, int threads, int device,
                       concord_session *out);
// Says why sessions cannot run on that GPU; NULL where they can.
char *concord_ort_check_gpu(int device);
void concord_ort_unload(concord_session *session);

char *concord_ort_options_new(void **options);
void concord_ort_options_terminate(void *options);
void concord_ort_options_free(void *options);

// Runs the session for the outputs whose indices are wanted. out has room for wanted_count tensors; after success the caller gives them back
// with concord_ort_release. options may be NULL. *bytes is what the outputs hold, strings with framed_string more for each; where that is more
// than most, the call fails before any string is copied.
char *concord_ort_run(const concord_session *session, void *options, const concord_in *in, size_t in_count,
                      const size_t *wanted, size_t wanted_count, size_t framed_string, size_t most, size_t *bytes, concord_out *out);
void concord_ort_release(concord_out *out, size_t count);

#endif
