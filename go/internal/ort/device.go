// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include <stdlib.h>
#include <dlfcn.h>
#include "api.h"
*/
import "C"

import (
	"fmt"
	"path/filepath"
	"regexp"
	"unsafe"
)

// cpu is the device of sessions that run on the CPU.
const cpu = C.CONCORD_CPU

// boundCPU runs on the CPU by the path of a GPU: for tests.
const boundCPU = C.CONCORD_CPU_BOUND

// libraries are what the CUDA provider needs, in the order in which each needs those before it. cuDNN is asked for at the first
// operator that uses it.
var libraries = []string{
	"libcudart.so.13", "libnvrtc.so.13", "libnvJitLink.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcufft.so.12", "libcudnn.so.9",
}

// missing finds the library that the loader did not find.
var missing = regexp.MustCompile(`with error: (\S+): cannot open shared object file`)

// OnGPU is the same runtime with sessions on that GPU, from 0. Where that cannot be, the error says what is missing; nothing falls back to
// the CPU. CUDA's libraries are looked for where the loader looks, and where the packages onnxruntime-gpu[cuda,cudnn] put them: beside the
// package that the library comes from.
func (r *Runtime) OnGPU(device int) (*Runtime, error) {
	opened.Lock()
	folder := filepath.Dir(opened.path)
	opened.Unlock()
	for _, name := range libraries {
		found, _ := filepath.Glob(filepath.Join(folder, "..", "..", "nvidia", "*", "lib", name))
		for _, path := range found {
			text := C.CString(path)
			C.dlopen(text, C.RTLD_NOW|C.RTLD_GLOBAL) // what is missing then, the provider tells
			C.free(unsafe.Pointer(text))
		}
	}
	if err := failure(C.concord_ort_check_gpu(C.int(device))); err != nil {
		why := err.Error()
		if m := missing.FindStringSubmatch(why); m != nil {
			switch m[1] {
			case "libcuda.so.1":
				why = "libcuda.so.1, which the NVIDIA driver brings, is missing"
			default:
				why = m[1] + " is missing: install onnxruntime-gpu[cuda,cudnn]==" + Version
			}
		} else if why == "CUDA execution provider is not enabled in this build." {
			why = LibraryName + " is the one for CPUs: it must be that of onnxruntime-gpu==" + Version
		}
		return nil, fmt.Errorf("expected a GPU at cuda:%d, got none: %s", device, why)
	}
	return &Runtime{threads: r.threads, device: device}, nil
}

// CPUNodes is the number of the graph's nodes that run on the CPU although the session is on a GPU; 0 for a session on the CPU.
func (s *session) CPUNodes() int { return int(s.c.cpu_nodes) }
