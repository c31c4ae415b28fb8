// SPDX-License-Identifier: Apache-2.0

#include "decoder.h"

#include <stdlib.h>

#include "table.h"

char *concord_binding_new(const concord_session *session, void **binding) {
  return concord_ort_failure(ort.CreateIoBinding(session->session, binding));
}

void concord_binding_free(void *binding) { ort.ReleaseIoBinding(binding); }

static char *bind(status (*to)(void *, const char *, void *), void *binding, const char *name, int32_t dtype, void *data, size_t size,
                  const int64_t *dims, size_t rank) {
  char *error = NULL;
  void *value = NULL;
  TRY(ort.CreateTensorWithDataAsOrtValue(concord_ort_cpu_memory, data, size, dims, rank, dtype, &value));
  TRY(to(binding, name, value));
done:
  if (value) ort.ReleaseValue(value); // the binding shares it
  return error;
}

char *concord_binding_input(void *binding, const char *name, int32_t dtype, void *data, size_t size, const int64_t *dims, size_t rank) {
  return bind(ort.BindInput, binding, name, dtype, data, size, dims, rank);
}

char *concord_binding_output(void *binding, const char *name, int32_t dtype, void *data, size_t size, const int64_t *dims, size_t rank) {
  return bind(ort.BindOutput, binding, name, dtype, data, size, dims, rank);
}

char *concord_binding_run(const concord_session *session, void *options, void *binding) {
  return concord_ort_failure(ort.RunWithBinding(session->session, options, binding));
}

void concord_options_renew(void *options) { free(concord_ort_failure(ort.RunOptionsUnsetTerminate(options))); }
