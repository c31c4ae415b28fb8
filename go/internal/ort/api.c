// SPDX-License-Identifier: Apache-2.0

// ONNX Runtime's C API is one table of functions whose places never change; a release only appends. This file names the places that it
// uses, so that building needs no header of ONNX Runtime; api_test.go holds them against the header itself.

#include "lane.h"
#include "table.h"

#include <dlfcn.h>
#ifdef __linux__
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The API version that has all functions below. A newer library serves it as well.
#define API_VERSION 24

enum {
  LOG_FATAL = 4,
  DEVICE_ALLOCATOR = 0,
  ARENA_ALLOCATOR = 1,
  MEMORY_CPU_OUTPUT = -1,
  MEMORY_DEFAULT = 0,
  TYPE_TENSOR = 1,
  ELEMENT_STRING = 8
};

typedef struct {
  const void *const *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} api_base;

struct concord_table ort;

void *concord_ort_cpu_memory;
static void *environment, *allocator;
static char nothing; // an address for no bytes

static void fill(const void *const *table) {
#define PLACE(index, name) *(const void **)&ort.name = table[index]
  PLACE(2, GetErrorMessage);
  PLACE(3, CreateEnv);
  PLACE(6, DisableTelemetryEvents);
  PLACE(8, CreateSessionFromArray);
  PLACE(9, Run);
  PLACE(10, CreateSessionOptions);
  PLACE(22, SetSessionLogSeverityLevel);
  PLACE(24, SetIntraOpNumThreads);
  PLACE(25, SetInterOpNumThreads);
  PLACE(30, SessionGetInputCount);
  PLACE(31, SessionGetOutputCount);
  PLACE(33, SessionGetInputTypeInfo);
  PLACE(34, SessionGetOutputTypeInfo);
  PLACE(36, SessionGetInputName);
  PLACE(37, SessionGetOutputName);
  PLACE(39, CreateRunOptions);
  PLACE(46, RunOptionsSetTerminate);
  PLACE(47, RunOptionsUnsetTerminate);
  PLACE(48, CreateTensorAsOrtValue);
  PLACE(49, CreateTensorWithDataAsOrtValue);
  PLACE(50, IsTensor);
  PLACE(51, GetTensorMutableData);
  PLACE(53, GetStringTensorDataLength);
  PLACE(54, GetStringTensorContent);
  PLACE(55, CastTypeInfoToTensorInfo);
  PLACE(56, GetOnnxTypeFromTypeInfo);
  PLACE(60, GetTensorElementType);
  PLACE(61, GetDimensionsCount);
  PLACE(62, GetDimensions);
  PLACE(64, GetTensorShapeElementCount);
  PLACE(65, GetTensorTypeAndShape);
  PLACE(68, CreateMemoryInfo);
  PLACE(69, CreateCpuMemoryInfo);
  PLACE(76, AllocatorFree);
  PLACE(78, GetAllocatorWithDefaultOptions);
  PLACE(93, ReleaseStatus);
  PLACE(94, ReleaseMemoryInfo);
  PLACE(95, ReleaseSession);
  PLACE(96, ReleaseValue);
  PLACE(97, ReleaseRunOptions);
  PLACE(98, ReleaseTypeInfo);
  PLACE(99, ReleaseTensorTypeAndShapeInfo);
  PLACE(100, ReleaseSessionOptions);
  PLACE(130, AddSessionConfigEntry);
  PLACE(131, CreateAllocator);
  PLACE(132, ReleaseAllocator);
  PLACE(133, RunWithBinding);
  PLACE(134, CreateIoBinding);
  PLACE(135, ReleaseIoBinding);
  PLACE(136, BindInput);
  PLACE(137, BindOutput);
  PLACE(138, BindOutputToDevice);
  PLACE(140, GetBoundOutputValues);
  PLACE(202, SynchronizeBoundInputs);
  PLACE(203, SynchronizeBoundOutputs);
  PLACE(204, SessionOptionsAppendExecutionProvider_CUDA_V2);
  PLACE(205, CreateCUDAProviderOptions);
  PLACE(206, UpdateCUDAProviderOptions);
  PLACE(208, ReleaseCUDAProviderOptions);
  PLACE(252, GetResizedStringTensorElementBuffer);
  PLACE(279, AddExternalInitializersFromFilesInMemory);
  PLACE(318, GetTensorSizeInBytes);
  PLACE(390, TensorTypeAndShape_HasShape);
  PLACE(407, Session_GetEpGraphAssignmentInfo);
  PLACE(408, EpAssignedSubgraph_GetEpName);
  PLACE(409, EpAssignedSubgraph_GetNodes);
#undef PLACE
}

char *concord_ort_failure(status s) {
  if (!s) return NULL;
  char *text = strdup(ort.GetErrorMessage(s));
  ort.ReleaseStatus(s);
  return text ? text : strdup("out of memory");
}

char *concord_ort_open(const char *path, const char *want, const char **version) {
  char *error = NULL;
  // Before the library loads: it reads this when it initialises.
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return strdup(dlerror());
  const api_base *(*get_base)(void);
  *(void **)&get_base = dlsym(library, "OrtGetApiBase");
  if (!get_base) return strdup("it is no ONNX Runtime library: it has no OrtGetApiBase");
  *version = get_base()->GetVersionString();
  if (strcmp(*version, want) != 0) return strdup("it is of another version");
  const void *const *table = get_base()->GetApi(API_VERSION);
  if (!table) return strdup("it does not serve the C API that is needed");
  fill(table);
  // Every error comes back as a status; what ONNX Runtime itself would print has no place among JSON lines.
  TRY(ort.CreateEnv(LOG_FATAL, "concord", &environment));
  TRY(ort.DisableTelemetryEvents(environment));
  TRY(ort.CreateCpuMemoryInfo(ARENA_ALLOCATOR, MEMORY_DEFAULT, &concord_ort_cpu_memory));
  TRY(ort.GetAllocatorWithDefaultOptions(&allocator));
done:
  return error;
}

static char *tensor_info(void *info, int32_t *dtype, size_t *rank, int64_t **dims) {
  char *error = NULL;
  int element = 0;
  TRY(ort.GetTensorElementType(info, &element));
  *dtype = element;
  TRY(ort.GetDimensionsCount(info, rank));
  *dims = calloc(*rank ? *rank : 1, sizeof(int64_t));
  if (!*dims) return strdup("out of memory");
  TRY(ort.GetDimensions(info, *dims, *rank));
done:
  return error;
}

static char *describe(void *session, size_t index, bool input, concord_io *io) {
  char *error = NULL;
  void *info = NULL, *tensor = NULL;
  int kind = 0;
  TRY((input ? ort.SessionGetInputName : ort.SessionGetOutputName)(session, index, allocator, &io->name));
  TRY((input ? ort.SessionGetInputTypeInfo : ort.SessionGetOutputTypeInfo)(session, index, &info));
  TRY(ort.GetOnnxTypeFromTypeInfo(info, &kind));
  io->kind = kind;
  if (kind == TYPE_TENSOR) {
    TRY(ort.CastTypeInfoToTensorInfo(info, &tensor));
    io->has_shape = ort.TensorTypeAndShape_HasShape(tensor);
    error = tensor_info(tensor, &io->dtype, &io->rank, &io->dims);
  }
done:
  if (info) ort.ReleaseTypeInfo(info);
  return error;
}

static char *describe_all(concord_session *s) {
  char *error = NULL;
  TRY(ort.SessionGetInputCount(s->session, &s->input_count));
  TRY(ort.SessionGetOutputCount(s->session, &s->output_count));
  s->inputs = calloc(s->input_count ? s->input_count : 1, sizeof(concord_io));
  s->outputs = calloc(s->output_count ? s->output_count : 1, sizeof(concord_io));
  if (!s->inputs || !s->outputs) return strdup("out of memory");
  for (size_t i = 0; !error && i < s->input_count; i++) error = describe(s->session, i, true, &s->inputs[i]);
  for (size_t i = 0; !error && i < s->output_count; i++) error = describe(s->session, i, false, &s->outputs[i]);
done:
  return error;
}

static char *add_files(void *options, const concord_file *files, size_t count) {
  const char **names = calloc(count, sizeof *names);
  char **data = calloc(count, sizeof *data);
  size_t *sizes = calloc(count, sizeof *sizes);
  char *error = NULL;
  if (!names || !data || !sizes) {
    error = strdup("out of memory");
  } else {
    for (size_t i = 0; i < count; i++) {
      names[i] = files[i].name;
      // ONNX Runtime only reads it, but wants an address also for no bytes.
      data[i] = files[i].size ? (char *)files[i].data : &nothing;
      sizes[i] = files[i].size;
    }
    error = concord_ort_failure(ort.AddExternalInitializersFromFilesInMemory(options, names, data, sizes, count));
  }
  free(names);
  free(data);
  free(sizes);
  return error;
}

// Puts sessions on a GPU. TF32 would answer outside the class of float32.
static char *use_gpu(void *options, int device) {
  char *error = NULL, number[16];
  void *cuda = NULL;
  const char *keys[] = {"device_id", "use_tf32", "arena_extend_strategy"};
  const char *values[] = {number, "0", "kSameAsRequested"};
  snprintf(number, sizeof number, "%d", device);
  TRY(ort.CreateCUDAProviderOptions(&cuda));
  TRY(ort.UpdateCUDAProviderOptions(cuda, keys, values, sizeof keys / sizeof *keys));
  TRY(ort.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda));
done:
  if (cuda) ort.ReleaseCUDAProviderOptions(cuda);
  return error;
}

// Counts the nodes that the CPU runs, and finds the memory that the GPU shares with the host.
static char *bind_memory(concord_session *s, int device) {
  char *error = NULL;
  void *const *subgraphs = NULL;
  size_t count = 0;
  TRY(ort.Session_GetEpGraphAssignmentInfo(s->session, &subgraphs, &count));
  for (size_t i = 0; i < count; i++) {
    const char *name = NULL;
    void *const *nodes = NULL;
    size_t node_count = 0;
    TRY(ort.EpAssignedSubgraph_GetEpName(subgraphs[i], &name));
    TRY(ort.EpAssignedSubgraph_GetNodes(subgraphs[i], &nodes, &node_count));
    if (strcmp(name, "CPUExecutionProvider") == 0) s->cpu_nodes += node_count;
  }
  if (device == CONCORD_CPU_BOUND)
    TRY(ort.CreateMemoryInfo("Cpu", ARENA_ALLOCATOR, 0, MEMORY_DEFAULT, &s->pinned_memory));
  else
    TRY(ort.CreateMemoryInfo("CudaPinned", DEVICE_ALLOCATOR, device, MEMORY_CPU_OUTPUT, &s->pinned_memory));
  TRY(ort.CreateAllocator(s->session, s->pinned_memory, &s->pinned));
done:
  return error;
}

char *concord_ort_check_gpu(int device) {
  char *error = NULL;
  void *options = NULL;
  TRY(ort.CreateSessionOptions(&options));
  if ((error = use_gpu(options, device)) != NULL) goto done;
  // The provider's library has loaded CUDA's by now.
  int (*device_count)(int *) = NULL;
  *(void **)&device_count = dlsym(RTLD_DEFAULT, "cudaGetDeviceCount");
  void *runtime = device_count ? NULL : dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
  if (runtime) *(void **)&device_count = dlsym(runtime, "cudaGetDeviceCount");
  int count = 0;
  if (!device_count || device_count(&count) != 0) count = 0;
  if (device >= count) {
    char text[80];
    snprintf(text, sizeof text, "this machine has %d GPUs that CUDA can use", count);
    error = strdup(text);
  }
done:
  if (options) ort.ReleaseSessionOptions(options);
  return error;
}

char *concord_ort_load(const void *graph, size_t size, const concord_file *files, size_t file_count, int threads, int device,
                       concord_session *out) {
  char *error = NULL;
  void *options = NULL;
  memset(out, 0, sizeof *out);
  TRY(ort.CreateSessionOptions(&options));
  TRY(ort.SetSessionLogSeverityLevel(options, LOG_FATAL));
  TRY(ort.SetIntraOpNumThreads(options, threads));
  TRY(ort.SetInterOpNumThreads(options, 1));
  TRY(ort.AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
  TRY(ort.AddSessionConfigEntry(options, "session.inter_op.allow_spinning", "0"));
  // A graph that names a file other than those given must not reach the disk: a graph from memory would look in the working
  // directory. This folder cannot exist, since a path component holds at most 255 bytes.
  char nowhere[302] = "/";
  memset(nowhere + 1, '-', 300);
  TRY(ort.AddSessionConfigEntry(options, "session.model_external_initializers_file_folder_path", nowhere));
  if (file_count && (error = add_files(options, files, file_count)) != NULL) goto done;
  if (device >= 0 && (error = use_gpu(options, device)) != NULL) goto done;
  if (device != CONCORD_CPU) TRY(ort.AddSessionConfigEntry(options, "session.record_ep_graph_assignment_info", "1"));
  TRY(ort.CreateSessionFromArray(environment, graph, size, options, &out->session));
  if ((error = describe_all(out)) == NULL && device != CONCORD_CPU) error = bind_memory(out, device);
done:
  if (options) ort.ReleaseSessionOptions(options);
  if (error) concord_ort_unload(out);
  return error;
}

static void forget(concord_io *io, size_t count) {
  for (size_t i = 0; io && i < count; i++) {
    if (io[i].name) concord_ort_failure(ort.AllocatorFree(allocator, io[i].name));
    free(io[i].dims);
  }
  free(io);
}

void concord_ort_unload(concord_session *s) {
  if (s->pinned) ort.ReleaseAllocator(s->pinned);
  if (s->pinned_memory) ort.ReleaseMemoryInfo(s->pinned_memory);
  if (s->session) ort.ReleaseSession(s->session);
  forget(s->inputs, s->input_count);
  forget(s->outputs, s->output_count);
  memset(s, 0, sizeof *s);
#ifdef __GLIBC__
  malloc_trim(0); // a model's memory goes back to the system, not only to malloc
#endif
}

char *concord_ort_options_new(void **options) { return concord_ort_failure(ort.CreateRunOptions(options)); }

void concord_ort_options_terminate(void *options) { free(concord_ort_failure(ort.RunOptionsSetTerminate(options))); }

void concord_ort_options_free(void *options) { ort.ReleaseRunOptions(options); }

static char *make_value(const concord_session *s, const concord_in *in, void **value) {
  char *error = NULL;
  if (in->dtype != ELEMENT_STRING && s->pinned) {
    void *data = NULL;
    size_t size = 0;
    TRY(ort.CreateTensorAsOrtValue(s->pinned, in->dims, in->rank, in->dtype, value));
    TRY(ort.GetTensorSizeInBytes(*value, &size));
    if (size != in->size) return strdup("a tensor's data is not of its shape's size");
    TRY(ort.GetTensorMutableData(*value, &data));
    if (size) memcpy(data, in->data, size);
    return NULL;
  }
  if (in->dtype != ELEMENT_STRING)
    return concord_ort_failure(ort.CreateTensorWithDataAsOrtValue(concord_ort_cpu_memory, in->size ? (void *)in->data : (void *)&nothing,
                                                                  in->size, in->dims, in->rank, in->dtype, value));
  TRY(ort.CreateTensorAsOrtValue(allocator, in->dims, in->rank, ELEMENT_STRING, value));
  // Not FillStringTensor: it takes C strings, which end at the first NUL.
  for (size_t i = 0; i < in->size; i++) {
    char *buffer = NULL;
    size_t length = in->offsets[i + 1] - in->offsets[i];
    TRY(ort.GetResizedStringTensorElementBuffer(*value, i, length, &buffer));
    memcpy(buffer, (const char *)in->data + in->offsets[i], length);
  }
done:
  return error;
}

// Reads all of a value but the strings.
static char *read_value(concord_out *out) {
  char *error = NULL;
  void *info = NULL, *data = NULL;
  int is_tensor = 0;
  TRY(ort.IsTensor(out->value, &is_tensor));
  if (!is_tensor) return strdup("an output is no tensor");
  TRY(ort.GetTensorTypeAndShape(out->value, &info));
  if ((error = tensor_info(info, &out->dtype, &out->rank, &out->dims)) != NULL) goto done;
  TRY(ort.GetTensorShapeElementCount(info, &out->count));
  if (out->dtype == ELEMENT_STRING) {
    TRY(ort.GetStringTensorDataLength(out->value, &out->size));
  } else if (out->count) {
    TRY(ort.GetTensorSizeInBytes(out->value, &out->size));
    TRY(ort.GetTensorMutableData(out->value, &data));
    out->data = data;
  }
done:
  if (info) ort.ReleaseTensorTypeAndShapeInfo(info);
  return error;
}

static char *read_strings(concord_out *out) {
  char *error = NULL;
  void *data = malloc(out->size ? out->size : 1);
  out->offsets = calloc(out->count + 1, sizeof(size_t));
  if (!out->offsets || !data) {
    free(data);
    return strdup("out of memory");
  }
  out->data = data;
  if (out->count) TRY(ort.GetStringTensorContent(out->value, data, out->size, out->offsets, out->count));
  out->offsets[out->count] = out->size;
done:
  return error;
}

// Runs a session by device buffers: the inputs are copied to the GPU from memory that it reads directly, and the outputs come into such memory.
static char *run_bound(const concord_session *s, void *options, const char **names, void **values, size_t in_count, const size_t *wanted,
                       size_t wanted_count) {
  char *error = NULL;
  void *binding = NULL, **bound = NULL;
  size_t count = 0;
  TRY(ort.CreateIoBinding(s->session, &binding));
  for (size_t i = 0; i < in_count; i++) TRY(ort.BindInput(binding, names[i], values[i]));
  for (size_t i = 0; i < wanted_count; i++) {
    bool text = s->outputs[wanted[i]].dtype == ELEMENT_STRING;
    TRY(ort.BindOutputToDevice(binding, names[in_count + i], text ? concord_ort_cpu_memory : s->pinned_memory));
  }
  TRY(ort.SynchronizeBoundInputs(binding));
  TRY(ort.RunWithBinding(s->session, options, binding));
  TRY(ort.SynchronizeBoundOutputs(binding));
  TRY(ort.GetBoundOutputValues(binding, allocator, &bound, &count));
  for (size_t i = 0; i < count; i++) values[in_count + i] = bound[i];
  if (bound) free(concord_ort_failure(ort.AllocatorFree(allocator, bound)));
  if (count != wanted_count) error = strdup("the run gave another number of outputs");
done:
  if (binding) ort.ReleaseIoBinding(binding);
  return error;
}

enum { FEW = 16 }; // Runs with no more tensors than this take no memory for names and values.

char *concord_ort_run(const concord_session *s, void *options, const concord_in *in, size_t in_count, const size_t *wanted,
                      size_t wanted_count, size_t framed_string, size_t most, size_t *bytes, concord_out *out) {
  char *error = NULL;
  const char *few_names[2 * FEW];
  void *few_values[2 * FEW];
  const char **names = few_names;
  void **values = few_values;
  size_t total = in_count + wanted_count;
  memset(out, 0, wanted_count * sizeof *out);
  if (total > 2 * FEW) {
    names = malloc(total * sizeof *names);
    values = malloc(total * sizeof *values);
    if (!names || !values) {
      free(names);
      free(values);
      return strdup("out of memory");
    }
  }
  memset(values, 0, total * sizeof *values);
  for (size_t i = 0; i < in_count; i++) {
    names[i] = s->inputs[i].name;
    if ((error = make_value(s, &in[i], &values[i])) != NULL) goto done;
  }
  for (size_t i = 0; i < wanted_count; i++) names[in_count + i] = s->outputs[wanted[i]].name;
  if (s->pinned) {
    if ((error = run_bound(s, options, names, values, in_count, wanted, wanted_count)) != NULL) goto done;
  } else {
    TRY(ort.Run(s->session, options, names, values, in_count, names + in_count, wanted_count, values + in_count));
  }
  for (size_t i = 0; i < wanted_count; i++) {
    out[i].value = values[in_count + i];
    values[in_count + i] = NULL;
  }
  *bytes = 0;
  for (size_t i = 0; i < wanted_count; i++) {
    if ((error = read_value(&out[i])) != NULL) goto done;
    *bytes += out[i].size + (out[i].dtype == ELEMENT_STRING ? out[i].count * framed_string : 0);
  }
  if (*bytes > most) {
    error = strdup("the outputs are too large");
    goto done;
  }
  for (size_t i = 0; i < wanted_count; i++)
    if (out[i].dtype == ELEMENT_STRING && (error = read_strings(&out[i])) != NULL) goto done;
done:
  for (size_t i = 0; i < total; i++)
    if (values[i]) ort.ReleaseValue(values[i]);
  if (names != few_names) free(names);
  if (values != few_values) free(values);
  if (error) concord_ort_release(out, wanted_count);
  return error;
}

void concord_ort_release(concord_out *out, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (out[i].offsets) free((void *)out[i].data);
    free(out[i].offsets);
    free(out[i].dims);
    if (out[i].value) ort.ReleaseValue(out[i].value);
  }
  memset(out, 0, count * sizeof *out);
}

char *concord_lane_new(const concord_session *s, const concord_in *in, const size_t *wanted, size_t wanted_count, concord_lane *lane) {
  char *error = NULL;
  size_t total = s->input_count + wanted_count;
  memset(lane, 0, sizeof *lane);
  lane->session = s->session;
  lane->in_count = s->input_count;
  lane->out_count = wanted_count;
  lane->names = calloc(total, sizeof *lane->names);
  lane->values = calloc(total, sizeof *lane->values);
  lane->data = calloc(total, sizeof *lane->data);
  lane->out = calloc(wanted_count, sizeof *lane->out);
  if (!lane->names || !lane->values || !lane->data || !lane->out) {
    error = strdup("out of memory");
    goto done;
  }
  for (size_t i = 0; i < lane->in_count; i++) {
    lane->names[i] = s->inputs[i].name;
    // Aligned like ONNX Runtime's own tensors.
    if (posix_memalign(&lane->data[i], 64, in[i].size ? in[i].size : 1) != 0) {
      lane->data[i] = NULL;
      error = strdup("out of memory");
      goto done;
    }
    memset(lane->data[i], 0, in[i].size);
    TRY(ort.CreateTensorWithDataAsOrtValue(concord_ort_cpu_memory, lane->data[i], in[i].size, in[i].dims, in[i].rank, in[i].dtype, &lane->values[i]));
  }
  for (size_t i = 0; i < wanted_count; i++) lane->names[lane->in_count + i] = s->outputs[wanted[i]].name;
  TRY(ort.CreateRunOptions(&lane->options));
done:
  if (error) concord_lane_free(lane);
  return error;
}

char *concord_lane_run(concord_lane *lane, size_t framed_string, size_t most, size_t *bytes) {
  char *error = NULL;
  void **outputs = lane->values + lane->in_count;
  concord_ort_release(lane->out, lane->out_count);
  *bytes = 0;
  TRY(ort.Run(lane->session, lane->options, lane->names, lane->values, lane->in_count, lane->names + lane->in_count,
              lane->out_count, outputs));
  for (size_t i = 0; i < lane->out_count; i++) {
    lane->out[i].value = outputs[i];
    outputs[i] = NULL;
  }
  for (size_t i = 0; i < lane->out_count; i++) {
    concord_out *out = &lane->out[i];
    if ((error = read_value(out)) != NULL) goto done;
    *bytes += out->size + (out->dtype == ELEMENT_STRING ? out->count * framed_string : 0);
  }
  if (*bytes > most) {
    error = strdup("the outputs are too large");
    goto done;
  }
  for (size_t i = 0; i < lane->out_count; i++)
    if (lane->out[i].dtype == ELEMENT_STRING && (error = read_strings(&lane->out[i])) != NULL) goto done;
done:
  if (error) {
    for (size_t i = 0; i < lane->out_count; i++) {
      if (outputs[i]) ort.ReleaseValue(outputs[i]);
      outputs[i] = NULL;
    }
    concord_ort_release(lane->out, lane->out_count);
  }
  return error;
}

void concord_lane_free(concord_lane *lane) {
  if (lane->out) concord_ort_release(lane->out, lane->out_count);
  for (size_t i = 0; i < lane->in_count; i++) {
    if (lane->values && lane->values[i]) ort.ReleaseValue(lane->values[i]);
    if (lane->data) free(lane->data[i]);
  }
  if (lane->options) ort.ReleaseRunOptions(lane->options);
  free(lane->names);
  free(lane->values);
  free(lane->data);
  free(lane->out);
  memset(lane, 0, sizeof *lane);
}
