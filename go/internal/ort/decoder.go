// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include "decoder.h"
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/tensor"
	"golang.org/x/sys/unix"
)

const (
	// maxLogitsBytes bounds the logits of one run of a graph that gives them for each token: a longer prompt takes several runs.
	maxLogitsBytes = 32 << 20
	// maskStep is what the length of a joined run's mask is a multiple of, so that it seldom changes.
	maskStep = 64
)

// decoder is a generate.Decoder on a plain session. Keys and values lie in fixed memory, one block for each layer's keys and each layer's values,
// [slots, heads, context, head size], which the session reads as past and writes as present; the mask says how much of it each row holds. What
// is bound once stays bound: a run binds anew only what changed its shape.
type decoder struct {
	mu       sync.Mutex
	session  *session
	settings *generate.Settings
	shape    graphShape
	slots    int
	context  int
	chunk    int   // most tokens of one run
	held     []int // tokens in each slot's cache

	caches               [][]byte // as pairs has them
	ids, positions, mask []int64
	logits               []byte
	memory               [][]byte // all that is mapped
	floats               []float32
	rows                 [][]float32

	joined, alone []*binding // by slots joined less one, and by slot
	options       unsafe.Pointer
}

// binding is a set of bound inputs and outputs, for the first slots joined or for one slot.
type binding struct {
	c                    unsafe.Pointer
	batch, tokens, total int // the shapes that are bound
}

// OpenDecoder makes a decoder of a graph, whose external initializers come from files alone, by name. The error is for callers.
func (r *Runtime) OpenDecoder(graph []byte, files map[string][]byte, settings *generate.Settings, sizes generate.Sizes) (generate.Decoder, error) {
	if r.device >= 0 {
		return nil, fmt.Errorf("text generation runs on the CPU, not on cuda:%d", r.device)
	}
	threads := sizes.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	loaded, err := (&Runtime{threads: threads, device: cpu}).Load(graph, files)
	if err != nil {
		return nil, errors.New(fault.Scrub(err.Error()))
	}
	d := &decoder{session: loaded.(*session), settings: settings, slots: sizes.Slots}
	if err := d.open(sizes.Bytes); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *decoder) open(most int64) (err error) {
	if d.shape, err = readGraph(d.session, d.settings); err != nil {
		return err
	}
	s, size := d.settings, d.shape.cache.Size()
	if d.context = s.Fit(d.slots, most, size); d.context < 1 {
		return fmt.Errorf("expected memory for one token in each of %d slots, %d bytes, got less", d.slots, s.CacheBytes(size)*int64(d.slots))
	}
	d.chunk = d.context
	if !d.shape.pruned {
		d.chunk = min(d.context, max(1, maxLogitsBytes/(s.Vocabulary*d.shape.logits.Size())))
	}
	take := func(bytes int) []byte {
		// The system gives pages when they are written.
		data, mapErr := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
		if mapErr != nil {
			err = errors.New("the memory for keys and values cannot be mapped")
			return nil
		}
		d.memory = append(d.memory, data)
		return data
	}
	numbers := func(count int) []int64 {
		data := take(count * 8)
		return unsafe.Slice((*int64)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/8)
	}
	for range d.shape.pairs {
		d.caches = append(d.caches, take(d.slots*d.slotBytes()))
	}
	longest := max(d.slots, d.chunk)
	d.ids, d.positions, d.mask = numbers(longest), numbers(longest), numbers(d.slots*d.context)
	logits := d.slots
	if !d.shape.pruned {
		logits = longest
	}
	d.logits = take(logits * s.Vocabulary * d.shape.logits.Size())
	if err != nil {
		return err
	}
	d.floats = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(d.logits))), len(d.logits)/4)
	if d.shape.logits != tensor.Float32 {
		d.floats = make([]float32, d.slots*s.Vocabulary)
	}
	d.rows = make([][]float32, 0, d.slots)
	d.held = make([]int, d.slots)
	d.joined, d.alone = make([]*binding, d.slots), make([]*binding, d.slots)
	return failure(C.concord_ort_options_new(&d.options))
}

// slotBytes is what one slot takes of one block of keys or values.
func (d *decoder) slotBytes() int { return d.settings.Heads * d.headBytes() }

func (d *decoder) headBytes() int { return d.context * d.entryBytes() }

func (d *decoder) entryBytes() int { return d.settings.HeadSize * d.shape.cache.Size() }

func (d *decoder) Slots() int         { return d.slots }
func (d *decoder) Context() int       { return d.context }
func (d *decoder) Vocabulary() int    { return d.settings.Vocabulary }
func (d *decoder) EndTokens() []int32 { return d.settings.EndTokens }
func (d *decoder) CacheBytes() int64 {
	return d.settings.CacheBytes(d.shape.cache.Size()) * int64(d.slots) * int64(d.context)
}

func (d *decoder) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, list := range [][]*binding{d.joined, d.alone} {
		for _, b := range list {
			if b != nil {
				C.concord_binding_free(b.c)
			}
		}
	}
	d.joined, d.alone = nil, nil
	if d.options != nil {
		C.concord_ort_options_free(d.options)
		d.options = nil
	}
	d.session.Close()
	for _, data := range d.memory {
		_ = unix.Munmap(data) // what is mapped can be unmapped
	}
	d.memory, d.slots = nil, 0
}

// Move copies the first tokens of a slot's cache to another slot.
func (d *decoder) Move(from, to, tokens int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if from < 0 || from >= d.slots || to < 0 || to >= d.slots || tokens < 0 || tokens > d.held[from] {
		panic(fmt.Sprintf("ort: %d tokens of slot %d, which holds %d, to slot %d of %d", tokens, from, d.held[max(0, min(from, d.slots-1))], to, d.slots))
	}
	if from == to {
		return
	}
	head, bytes := d.headBytes(), tokens*d.entryBytes()
	for _, cache := range d.caches {
		source, target := cache[from*d.slotBytes():], cache[to*d.slotBytes():]
		for h := range d.settings.Heads {
			copy(target[h*head:h*head+bytes], source[h*head:h*head+bytes])
		}
	}
	d.held[to], d.held[from] = tokens, 0
}

// Run refuses rows that would reach beyond a slot, or leave a gap in one, before ONNX Runtime sees them.
func (d *decoder) Run(ctx context.Context, rows []generate.Row) ([][]float32, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(rows); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		terminated := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			C.concord_ort_options_terminate(d.options)
			close(terminated)
		})
		defer func() {
			if !stop() {
				<-terminated
				C.concord_options_renew(d.options)
			}
		}()
	}
	var err error
	if len(rows) == 1 {
		err = d.runAlone(ctx, rows[0])
	} else {
		err = d.runJoined(rows)
	}
	if err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, ended
		}
		return nil, err
	}
	return d.rows, nil
}

func (d *decoder) check(rows []generate.Row) error {
	if len(rows) == 0 {
		return errors.New("expected a row, got none")
	}
	before := -1
	for _, row := range rows {
		switch {
		case row.Slot <= before || row.Slot >= d.slots:
			return fmt.Errorf("expected a slot from %d to %d, got %d", before+1, d.slots-1, row.Slot)
		case len(row.Tokens) == 0 || len(rows) > 1 && len(row.Tokens) > 1:
			return fmt.Errorf("slot %d: expected one token, got %d", row.Slot, len(row.Tokens))
		case row.Position < 0 || row.Position > d.held[row.Slot]:
			return fmt.Errorf("slot %d: expected a position from 0 to %d, got %d", row.Slot, d.held[row.Slot], row.Position)
		case len(row.Tokens) > d.context-row.Position:
			return fmt.Errorf("slot %d: expected at most %d tokens, got %d", row.Slot, d.context, row.Position+len(row.Tokens))
		}
		for _, token := range row.Tokens {
			if token < 0 || int(token) >= d.settings.Vocabulary {
				return fmt.Errorf("slot %d: expected tokens from 0 to %d, got %d", row.Slot, d.settings.Vocabulary-1, token)
			}
		}
		before = row.Slot
	}
	return nil
}

// runAlone runs one row over its own slot's memory.
func (d *decoder) runAlone(ctx context.Context, row generate.Row) error {
	d.held[row.Slot] = row.Position
	for tokens := row.Tokens; len(tokens) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := tokens[:min(len(tokens), d.chunk)]
		held := d.held[row.Slot]
		for i, token := range part {
			d.ids[i], d.positions[i] = int64(token), int64(held+i)
		}
		total := held + len(part)
		if len(part) == 1 {
			total = d.maskLength(total)
		}
		d.fillMask(0, held+len(part), total)
		if err := d.run(d.alone, row.Slot, row.Slot, 1, len(part), total); err != nil {
			return err
		}
		d.held[row.Slot] += len(part)
		d.give(1, len(part))
		tokens = tokens[len(part):]
	}
	return nil
}

// runJoined runs one token of each row over the memory of all slots up to the last row's. Slots between them that have no row get a token that
// changes nothing: it goes behind what they hold, or, where they are full, in the place of their last, whose slot can only be begun anew.
func (d *decoder) runJoined(rows []generate.Row) error {
	batch := rows[len(rows)-1].Slot + 1
	longest := 0
	for _, row := range rows {
		d.held[row.Slot] = row.Position
	}
	for slot := range batch {
		d.ids[slot], d.positions[slot] = 0, int64(min(d.held[slot], d.context-1))
		longest = max(longest, int(d.positions[slot])+1)
	}
	for _, row := range rows {
		d.ids[row.Slot] = int64(row.Tokens[0])
	}
	total := d.maskLength(longest)
	for slot := range batch {
		d.fillMask(slot, int(d.positions[slot])+1, total)
	}
	if err := d.run(d.joined, batch-1, 0, batch, 1, total); err != nil {
		return err
	}
	d.give(batch, 1)
	for i, row := range rows {
		d.held[row.Slot]++
		d.rows[i] = d.rows[row.Slot]
	}
	d.rows = d.rows[:len(rows)]
	return nil
}

func (d *decoder) maskLength(tokens int) int {
	return min(d.context, (tokens+maskStep-1)/maskStep*maskStep)
}

func (d *decoder) fillMask(row, ones, total int) {
	mask := d.mask[row*total:][:total]
	for i := range ones {
		mask[i] = 1
	}
	clear(mask[ones:])
}

// give reads the logits after the last token of each row.
func (d *decoder) give(batch, tokens int) {
	v := d.settings.Vocabulary
	each := tokens
	if d.shape.pruned {
		each = 1
	}
	d.rows = d.rows[:0]
	for row := range batch {
		last := (row*each + each - 1) * v
		if d.shape.logits == tensor.Float32 {
			d.rows = append(d.rows, d.floats[last:last+v:last+v])
			continue
		}
		halves := unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(d.logits))), len(d.logits)/2)[last : last+v]
		out := d.floats[row*v : (row+1)*v : (row+1)*v]
		for i, half := range halves {
			out[i] = tensor.FromFloat16(half)
		}
		d.rows = append(d.rows, out)
	}
}

// run runs a binding, which it makes where there is none yet: of as many slots as batch has, from the first on.
func (d *decoder) run(list []*binding, index, first, batch, tokens, total int) error {
	b := list[index]
	if b == nil {
		b = &binding{}
		if err := d.bindCaches(b, first, batch); err != nil {
			if b.c != nil {
				C.concord_binding_free(b.c)
			}
			return err
		}
		list[index] = b
	}
	if err := d.bindShapes(b, batch, tokens, total); err != nil {
		b.batch = 0 // nothing is known of what is bound
		return err
	}
	return d.execute(b)
}

func (d *decoder) execute(b *binding) error {
	return failure(C.concord_binding_run(&d.session.c, d.options, b.c))
}

func (d *decoder) bindCaches(b *binding, first, batch int) error {
	if err := failure(C.concord_binding_new(&d.session.c, &b.c)); err != nil {
		return err
	}
	dims := [4]C.int64_t{C.int64_t(batch), C.int64_t(d.settings.Heads), C.int64_t(d.context), C.int64_t(d.settings.HeadSize)}
	size := batch * d.slotBytes()
	for i, pair := range d.shape.pairs {
		data := unsafe.Pointer(unsafe.SliceData(d.caches[i][first*d.slotBytes():]))
		err := errors.Join(
			failure(C.concord_binding_input(b.c, pair.past, C.int32_t(d.shape.cache), data, C.size_t(size), &dims[0], 4)),
			failure(C.concord_binding_output(b.c, pair.present, C.int32_t(d.shape.cache), data, C.size_t(size), &dims[0], 4)))
		if err != nil {
			return err
		}
	}
	return nil
}

// bindShapes binds what has another shape than in the binding's last run.
func (d *decoder) bindShapes(b *binding, batch, tokens, total int) error {
	input := func(name *C.char, data []int64, length int) error {
		dims := [2]C.int64_t{C.int64_t(batch), C.int64_t(length)}
		return failure(C.concord_binding_input(b.c, name, C.int32_t(tensor.Int64), unsafe.Pointer(unsafe.SliceData(data)), C.size_t(batch*length*8), &dims[0], 2))
	}
	if b.batch != batch || b.total != total {
		if err := input(d.shape.attentionMask, d.mask, total); err != nil {
			return err
		}
	}
	if b.batch != batch || b.tokens != tokens {
		if err := input(d.shape.inputIDs, d.ids, tokens); err != nil {
			return err
		}
		if d.shape.positionIDs != nil {
			if err := input(d.shape.positionIDs, d.positions, tokens); err != nil {
				return err
			}
		}
		each := tokens
		if d.shape.pruned {
			each = 1
		}
		dims := [3]C.int64_t{C.int64_t(batch), C.int64_t(each), C.int64_t(d.settings.Vocabulary)}
		size := batch * each * d.settings.Vocabulary * d.shape.logits.Size()
		if err := failure(C.concord_binding_output(b.c, d.shape.logitsName, C.int32_t(d.shape.logits), unsafe.Pointer(unsafe.SliceData(d.logits)),
			C.size_t(size), &dims[0], 3)); err != nil {
			return err
		}
	}
	b.batch, b.tokens, b.total = batch, tokens, total
	return nil
}
