// Prints plans of KubeFed's own planner for random inputs, one JSON object per line: `go run . SEED COUNT`, in a module
// that requires sigs.k8s.io/kubefed v0.10.0.
package main

import (
	"bufio"
	"encoding/json"
	"math/rand"
	"os"
	"strconv"

	api "sigs.k8s.io/kubefed/pkg/apis/scheduling/v1alpha1"
	"sigs.k8s.io/kubefed/pkg/controller/util/planner"
)

type vector struct {
	Total       int32                             `json:"total"`
	Rebalance   bool                              `json:"rebalance"`
	Key         string                            `json:"key"`
	Preferences map[string]api.ClusterPreferences `json:"preferences"`
	Clusters    []string                          `json:"clusters"`
	Current     map[string]int64                  `json:"current"`
	Capacity    map[string]int64                  `json:"capacity"`
	Plan        map[string]int64                  `json:"plan"`
	Overflow    map[string]int64                  `json:"overflow"`
}

func main() {
	seed, _ := strconv.ParseInt(os.Args[1], 10, 64)
	count, _ := strconv.Atoi(os.Args[2])
	r := rand.New(rand.NewSource(seed))
	names := []string{"c1", "c2", "eu-west", "us-east", "m5", "kube", "z"}
	keys := []string{"shop/web", "default/a", "prod/frontend-v2", "x/y"}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	// Mostly small numbers, sometimes zero, rarely negative or large.
	number := func(limit int64) int64 {
		switch r.Intn(12) {
		case 0:
			return 0
		case 1:
			return -r.Int63n(limit + 1)
		case 2:
			return r.Int63n(limit*50 + 1)
		default:
			return r.Int63n(limit + 1)
		}
	}
	for i := 0; i < count; i++ {
		v := vector{Total: int32(number(60)), Rebalance: r.Intn(2) == 0, Key: keys[r.Intn(len(keys))],
			Preferences: map[string]api.ClusterPreferences{}, Clusters: []string{}, Current: map[string]int64{}, Capacity: map[string]int64{}}
		shuffled := r.Perm(len(names))[:r.Intn(len(names)+1)]
		preference := func() api.ClusterPreferences {
			p := api.ClusterPreferences{Weight: number(9)}
			if p.Weight < 0 {
				p.Weight = -p.Weight
			}
			if r.Intn(3) == 0 {
				p.MinReplicas = number(12)
			}
			if r.Intn(3) == 0 {
				max := number(25)
				p.MaxReplicas = &max
			}
			return p
		}
		if r.Intn(3) != 0 {
			v.Preferences["*"] = preference()
		}
		for _, n := range shuffled {
			name := names[n]
			v.Clusters = append(v.Clusters, name)
			if r.Intn(2) == 0 {
				v.Preferences[name] = preference()
			}
			if r.Intn(2) == 0 {
				v.Current[name] = number(25)
			}
			if r.Intn(3) == 0 {
				v.Capacity[name] = number(25)
			}
		}
		rsp := &api.ReplicaSchedulingPreference{Spec: api.ReplicaSchedulingPreferenceSpec{
			TotalReplicas: v.Total, Rebalance: v.Rebalance, Clusters: v.Preferences}}
		var err error
		v.Plan, v.Overflow, err = planner.NewPlanner(rsp).Plan(v.Clusters, v.Current, v.Capacity, v.Key)
		if err != nil {
			panic(err)
		}
		if err := encoder.Encode(v); err != nil {
			panic(err)
		}
	}
}
