// SPDX-License-Identifier: Apache-2.0

// What of ONNX Runtime's table of functions is used here. api.c fills it.
#ifndef CONCORD_ORT_TABLE_H
#define CONCORD_ORT_TABLE_H

#include "api.h"

#include <stdbool.h>

typedef void *status;

struct concord_table {
  const char *(*GetErrorMessage)(status);
  status (*CreateEnv)(int severity, const char *id, void **env);
  status (*DisableTelemetryEvents)(void *env);
  status (*CreateSessionFromArray)(void *env, const void *data, size_t size, void *options, void **session);
  status (*Run)(void *session, void *options, const char *const *input_names, void *const *inputs, size_t input_count,
                const char *const *output_names, size_t output_count, void **outputs);
  status (*CreateSessionOptions)(void **options);
  status (*SetSessionLogSeverityLevel)(void *options, int severity);
  status (*SetIntraOpNumThreads)(void *options, int threads);
  status (*SetInterOpNumThreads)(void *options, int threads);
  status (*SessionGetInputCount)(void *session, size_t *count);
  status (*SessionGetOutputCount)(void *session, size_t *count);
  status (*SessionGetInputTypeInfo)(void *session, size_t index, void **info);
  status (*SessionGetOutputTypeInfo)(void *session, size_t index, void **info);
  status (*SessionGetInputName)(void *session, size_t index, void *allocator, char **name);
  status (*SessionGetOutputName)(void *session, size_t index, void *allocator, char **name);
  status (*CreateRunOptions)(void **options);
  status (*RunOptionsSetTerminate)(void *options);
  status (*RunOptionsUnsetTerminate)(void *options);
  status (*CreateTensorAsOrtValue)(void *allocator, const int64_t *dims, size_t rank, int dtype, void **value);
  status (*CreateTensorWithDataAsOrtValue)(void *memory, void *data, size_t size, const int64_t *dims, size_t rank, int dtype,
                                           void **value);
  status (*IsTensor)(void *value, int *is);
  status (*GetTensorMutableData)(void *value, void **data);
  status (*GetStringTensorDataLength)(void *value, size_t *size);
  status (*GetStringTensorContent)(void *value, void *data, size_t size, size_t *offsets, size_t count);
  status (*CastTypeInfoToTensorInfo)(void *info, void **tensor_info);
  status (*GetOnnxTypeFromTypeInfo)(void *info, int *kind);
  status (*GetTensorElementType)(void *tensor_info, int *dtype);
  status (*GetDimensionsCount)(void *tensor_info, size_t *rank);
  status (*GetDimensions)(void *tensor_info, int64_t *dims, size_t rank);
  status (*GetTensorShapeElementCount)(void *tensor_info, size_t *count);
  status (*GetTensorTypeAndShape)(void *value, void **tensor_info);
  status (*CreateMemoryInfo)(const char *name, int allocator, int id, int memory, void **info);
  status (*CreateCpuMemoryInfo)(int allocator, int memory, void **info);
  status (*AllocatorFree)(void *allocator, void *pointer);
  status (*GetAllocatorWithDefaultOptions)(void **allocator);
  status (*AddSessionConfigEntry)(void *options, const char *key, const char *value);
  status (*CreateAllocator)(void *session, void *memory, void **allocator);
  status (*RunWithBinding)(void *session, void *options, void *binding);
  status (*CreateIoBinding)(void *session, void **binding);
  status (*BindInput)(void *binding, const char *name, void *value);
  status (*BindOutput)(void *binding, const char *name, void *value);
  status (*BindOutputToDevice)(void *binding, const char *name, void *memory);
  status (*GetBoundOutputValues)(void *binding, void *allocator, void ***values, size_t *count);
  status (*SynchronizeBoundInputs)(void *binding);
  status (*SynchronizeBoundOutputs)(void *binding);
  status (*SessionOptionsAppendExecutionProvider_CUDA_V2)(void *options, void *cuda);
  status (*CreateCUDAProviderOptions)(void **cuda);
  status (*UpdateCUDAProviderOptions)(void *cuda, const char *const *keys, const char *const *values, size_t count);
  status (*Session_GetEpGraphAssignmentInfo)(void *session, void *const **subgraphs, size_t *count);
  status (*EpAssignedSubgraph_GetEpName)(void *subgraph, const char **name);
  status (*EpAssignedSubgraph_GetNodes)(void *subgraph, void *const **nodes, size_t *count);
  status (*GetResizedStringTensorElementBuffer)(void *value, size_t index, size_t size, char **buffer);
  status (*AddExternalInitializersFromFilesInMemory)(void *options, const char *const *names, char *const *data, const size_t *sizes,
                                                     size_t count);
  status (*GetTensorSizeInBytes)(void *value, size_t *size);
  bool (*TensorTypeAndShape_HasShape)(void *tensor_info);
  void (*ReleaseStatus)(status);
  void (*ReleaseSession)(void *);
  void (*ReleaseValue)(void *);
  void (*ReleaseRunOptions)(void *);
  void (*ReleaseTypeInfo)(void *);
  void (*ReleaseTensorTypeAndShapeInfo)(void *);
  void (*ReleaseSessionOptions)(void *);
  void (*ReleaseMemoryInfo)(void *);
  void (*ReleaseAllocator)(void *);
  void (*ReleaseIoBinding)(void *);
  void (*ReleaseCUDAProviderOptions)(void *);
};

#pragma GCC visibility push(hidden)
extern struct concord_table ort;
extern void *concord_ort_cpu_memory;

// The text of a failed status, which it releases; NULL where nothing failed.
char *concord_ort_failure(status s);
#pragma GCC visibility pop

#define TRY(call)                                 \
  do {                                            \
    if ((error = concord_ort_failure(call)) != 0) \
      goto done;                                  \
  } while (0)

#endif
