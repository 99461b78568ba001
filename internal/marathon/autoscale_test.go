package marathon

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAutoscaleByCPU: the fake agent's statistics say how busy each task is, and the number of instances follows.
func TestAutoscaleByCPU(t *testing.T) {
	t.Parallel()
	fm := newFakeMaster(t)
	var busy, now atomic.Int64 // thousandths of a core that each task uses; a clock
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		at := now.Add(1)
		list := []any{}
		for _, id := range fm.running() {
			list = append(list, map[string]any{"executor_id": id, "statistics": map[string]any{"timestamp": at, "cpus_user_time_secs": float64(at*busy.Load()) / 1000}})
		}
		_ = json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(agent.Close)
	fm.agent = agent.Listener.Addr()
	i := start(t, testConfig(t, fm.address(), "--autoscale_interval=20ms"), Deps{})
	i.want(201, "POST", "/v2/apps", `{"id":"/web","cmd":"serve","cpus":1,"instances":2,"labels":{"ORCHESTRATOR_AUTOSCALE_MIN":"2","ORCHESTRATOR_AUTOSCALE_MAX":"6","ORCHESTRATOR_AUTOSCALE_TARGET":"50","ORCHESTRATOR_AUTOSCALE_COOLDOWN":"1s"}}`)
	eventually(t, "2 run", func() bool { return len(fm.running()) == 2 })
	busy.Store(900)
	eventually(t, "busy: up to the greatest number", func() bool { return len(fm.running()) == 6 })
	busy.Store(0)
	eventually(t, "idle: down to the least", func() bool { return len(fm.running()) == 2 })
}

func TestAskPrometheus(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query().Get("query"); q {
		case "vector":
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2.5"]}]}}`)
		case "scalar":
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`)
		case "empty":
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
		case "nonsense":
			fmt.Fprint(w, `{"data":{"resultType":"vector","result":[{"value":[1]}]}}`)
		default:
			http.Error(w, "bad query", http.StatusBadRequest)
		}
	}))
	t.Cleanup(server.Close)
	for q, want := range map[string]float64{"vector": 2.5, "scalar": 7, "empty": 0} {
		if v, err := askPrometheus(t.Context(), server.URL+"/", q); err != nil || v != want {
			t.Errorf("%s: %v %v", q, v, err)
		}
	}
	for _, q := range []string{"nonsense", "wrong"} {
		if _, err := askPrometheus(t.Context(), server.URL, q); err == nil {
			t.Errorf("%s gives no error", q)
		}
	}
	if _, err := askPrometheus(t.Context(), "", "vector"); err == nil || !strings.Contains(err.Error(), "--prometheus_url") {
		t.Errorf("without a URL: %v", err)
	}
}
