// SPDX-License-Identifier: Apache-2.0

// A lane: one row's inputs, made once, and a run of just these in one crossing.
#ifndef CONCORD_ORT_LANE_H
#define CONCORD_ORT_LANE_H

#include "api.h"

typedef struct {
  void *session; // ONNX Runtime's
  void *options; // of its runs
  size_t in_count, out_count;
  const char **names; // of the inputs, then of the outputs; the session's
  void **values;      // the inputs, over the memory of data; then the outputs of a run
  void **data;        // of each input
  concord_out *out;   // the outputs of the last run
} concord_lane;

// Makes a lane for inputs of these types and shapes; data of in is not read. Numbers only.
char *concord_lane_new(const concord_session *session, const concord_in *in, const size_t *wanted, size_t wanted_count, concord_lane *lane);
// Runs the lane: as concord_ort_run, but that the outputs are the lane's until its next run.
char *concord_lane_run(concord_lane *lane, size_t framed_string, size_t most, size_t *bytes);
void concord_lane_free(concord_lane *lane);

#endif
