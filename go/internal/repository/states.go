// SPDX-License-Identifier: Apache-2.0

package repository

import inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"

// Left is the state of a version that is not in the repository any more.
const Left = inferencev1.ModelState_MODEL_STATE_UNSPECIFIED

// tellStates tells whoever wants to know which versions of a model are in another state than before. Either entry may be nil.
func (r *Repository) tellStates(id string, before, after *Entry) {
	if r.options.State == nil {
		return
	}
	was, is := states(before), states(after)
	for number := range was {
		if _, stays := is[number]; !stays {
			r.options.State(id, number, Left)
		}
	}
	for number, state := range is {
		if was[number] != state {
			r.options.State(id, number, state)
		}
	}
}

func states(entry *Entry) map[string]State {
	byNumber := map[string]State{}
	if entry != nil {
		for i := range entry.Versions {
			byNumber[entry.Versions[i].Number] = entry.Versions[i].State
		}
	}
	return byNumber
}
