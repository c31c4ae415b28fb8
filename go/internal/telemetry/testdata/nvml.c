// SPDX-License-Identifier: Apache-2.0

// A management library of two GPUs, numbered 0 and 1 and named GPU-0 and GPU-1. The second does not tell its load.
#include <stdint.h>
#include <string.h>

static char gpus[2];

int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index > 1) return 2;
  *device = &gpus[index];
  return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  if (strncmp(uuid, "GPU-", 4) || strlen(uuid) != 5) return 6;
  return nvmlDeviceGetHandleByIndex_v2(uuid[4] - '0', device);
}

int nvmlDeviceGetMemoryInfo(void *device, uint64_t *memory) {
  uint64_t used = device == &gpus[0] ? 3 : 5;
  memory[0] = (uint64_t)80 << 30;
  memory[1] = (80 - used) << 30;
  memory[2] = used << 30;
  return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
  if (device == &gpus[1]) return 3;
  rates[0] = 25;
  rates[1] = 50;
  return 0;
}
