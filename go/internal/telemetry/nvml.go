// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"strconv"

	"github.com/ebitengine/purego"
)

// nvmlLibrary is NVIDIA's management library, which comes with the driver.
const nvmlLibrary = "libnvidia-ml.so.1"

// nvml is what is needed of that library. It is looked for when it is wanted: a binary that is linked to it, as the usual binding is, does not start
// without it where the linker resolves all symbols at once.
type nvml struct {
	byIndex     func(index uint32, device *nvmlDevice) nvmlResult
	byUUID      func(uuid string, device *nvmlDevice) nvmlResult
	memoryInfo  func(device nvmlDevice, memory *nvmlMemory) nvmlResult
	utilization func(device nvmlDevice, rates *nvmlRates) nvmlResult
}

type (
	nvmlDevice uintptr // opaque
	nvmlResult int32   // 0 is success
)

// nvmlMemory is in bytes.
type nvmlMemory struct{ Total, Free, Used uint64 }

// nvmlRates are in percent.
type nvmlRates struct{ GPU, Memory uint32 }

func (r nvmlResult) err(what string) error {
	if r == 0 {
		return nil
	}
	return fmt.Errorf("%s: NVIDIA's management library answers %d", what, r)
}

// openNVML loads and starts the library; it stays loaded for good.
func openNVML(name string) (*nvml, error) {
	library, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("%s, NVIDIA's management library, is not here", nvmlLibrary)
	}
	var start func() nvmlResult
	n := &nvml{}
	for name, function := range map[string]any{
		"nvmlInit_v2": &start, "nvmlDeviceGetHandleByIndex_v2": &n.byIndex, "nvmlDeviceGetHandleByUUID": &n.byUUID,
		"nvmlDeviceGetMemoryInfo": &n.memoryInfo, "nvmlDeviceGetUtilizationRates": &n.utilization,
	} {
		symbol, err := purego.Dlsym(library, name)
		if err != nil {
			return nil, fmt.Errorf("%s has no %s", nvmlLibrary, name)
		}
		purego.RegisterFunc(function, symbol)
	}
	return n, start().err("start")
}

// find is the GPU of a number or a UUID.
func (n *nvml) find(name string) (device nvmlDevice, err error) {
	if index, bad := strconv.ParseUint(name, 10, 32); bad == nil {
		err = n.byIndex(uint32(index), &device).err("GPU " + name)
	} else {
		err = n.byUUID(name, &device).err("GPU " + strconv.Quote(name))
	}
	return device, err
}

func (n *nvml) memory(device nvmlDevice) (memory nvmlMemory, err error) {
	err = n.memoryInfo(device, &memory).err("memory")
	return memory, err
}

// load is in percent.
func (n *nvml) load(device nvmlDevice) (percent uint32, err error) {
	var rates nvmlRates
	err = n.utilization(device, &rates).err("utilisation")
	return rates.GPU, err
}
