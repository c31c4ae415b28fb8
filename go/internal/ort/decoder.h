// SPDX-License-Identifier: Apache-2.0

// Runs of a session whose inputs and outputs stay where they are from one run to the next. Functions that can fail return NULL or an error text
// that the caller frees with free().
#ifndef CONCORD_DECODER_H
#define CONCORD_DECODER_H

#include "api.h"

char *concord_binding_new(const concord_session *session, void **binding);
void concord_binding_free(void *binding);

// Makes memory the tensor of an input or output from now on. The memory must stay for as long as it is bound.
char *concord_binding_input(void *binding, const char *name, int32_t dtype, void *data, size_t size, const int64_t *dims, size_t rank);
char *concord_binding_output(void *binding, const char *name, int32_t dtype, void *data, size_t size, const int64_t *dims, size_t rank);

char *concord_binding_run(const concord_session *session, void *options, void *binding);

// Lets options that ended a run be used again.
void concord_options_renew(void *options);

#endif
