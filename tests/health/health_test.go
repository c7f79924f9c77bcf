// Package health has others judge every kind of status that the operator writes (cases.json, from src/status/tests/health.rs):
// Argo CD's health check by the Lua interpreter that Argo CD uses, and kstatus, by which Flux and Helm wait.
package health

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	healthy     = "Healthy"
	progressing = "Progressing"
	degraded    = "Degraded"
	suspended   = "Suspended"
)

// What each is to be; a case that is not here fails, and so does one that is here and nowhere else.
var wanted = map[string]struct {
	argo    string
	kstatus status.Status
}{
	"just created":         {progressing, status.InProgressStatus},
	"no token yet":         {progressing, status.InProgressStatus},
	"clients not seen yet": {progressing, status.InProgressStatus},
	"converged":            {healthy, status.CurrentStatus},
	"converged app":        {healthy, status.CurrentStatus},
	"the spec has changed": {progressing, status.InProgressStatus},
	"the spec has changed while a person must act": {progressing, status.InProgressStatus},
	"to be suspended":         {progressing, status.InProgressStatus},
	"another spec":            {progressing, status.InProgressStatus},
	"invalid spec":            {degraded, status.FailedStatus},
	"a code waits for a user": {degraded, status.FailedStatus},
	"target taken":            {degraded, status.FailedStatus},
	"target taken later":      {degraded, status.FailedStatus},

	// kstatus knows no suspension: what counts is whether there is a token.
	"suspended":                 {suspended, status.CurrentStatus},
	"suspended before anything": {suspended, status.InProgressStatus},
	"suspended and expired":     {suspended, status.InProgressStatus},

	// kstatus looks at Ready alone.
	"token accepted":          {healthy, status.CurrentStatus},
	"token refused twice":     {degraded, status.CurrentStatus},
	"the trial is wrong":      {healthy, status.CurrentStatus},
	"the trial was throttled": {healthy, status.CurrentStatus},

	// What heals by itself is a failure for Argo CD only once pods have no token; for kstatus never.
	"valid, Throttled":                               {healthy, status.CurrentStatus},
	"valid, ProviderUnavailable":                     {healthy, status.CurrentStatus},
	"valid, StorageUnavailable":                      {healthy, status.CurrentStatus},
	"unknown client, valid":                          {healthy, status.CurrentStatus},
	"expired":                                        {degraded, status.InProgressStatus},
	"expired, Throttled":                             {degraded, status.InProgressStatus},
	"expired, ProviderUnavailable":                   {degraded, status.InProgressStatus},
	"expired, StorageUnavailable":                    {degraded, status.InProgressStatus},
	"never issued, Throttled":                        {progressing, status.InProgressStatus},
	"never issued, ProviderUnavailable":              {progressing, status.InProgressStatus},
	"never issued, StorageUnavailable":               {progressing, status.InProgressStatus},
	"unknown client, never issued":                   {progressing, status.InProgressStatus},
	"valid, AuthorizationRequired":                   {degraded, status.FailedStatus},
	"valid, a cluster administrator must act":        {degraded, status.FailedStatus},
	"never issued, a cluster administrator must act": {degraded, status.FailedStatus},
	"valid, WrongAccount":                            {degraded, status.FailedStatus},
	"valid, InvalidConfiguration":                    {degraded, status.FailedStatus},
	"expired, AuthorizationRequired":                 {degraded, status.FailedStatus},
	"expired, WrongAccount":                          {degraded, status.FailedStatus},
	"expired, InvalidConfiguration":                  {degraded, status.FailedStatus},
	"never issued, AuthorizationRequired":            {degraded, status.FailedStatus},
	"never issued, WrongAccount":                     {degraded, status.FailedStatus},
	"never issued, InvalidConfiguration":             {degraded, status.FailedStatus},
	"suspended, AuthorizationRequired":               {degraded, status.FailedStatus},
	"suspended, WrongAccount":                        {degraded, status.FailedStatus},
	"suspended, InvalidConfiguration":                {degraded, status.FailedStatus},
}

type testCase struct {
	Name   string         `json:"name"`
	Object map[string]any `json:"object"`
}

func cases(t *testing.T) []testCase {
	t.Helper()
	text, err := os.ReadFile("cases.json")
	if err != nil {
		t.Fatal(err)
	}
	// As the API server's objects are read: whole numbers are int64.
	var list unstructured.UnstructuredList
	wrapped := append(append([]byte(`{"kind":"List","apiVersion":"v1","items":`), objects(t, text)...), '}')
	if err := list.UnmarshalJSON(wrapped); err != nil {
		t.Fatal(err)
	}
	var all []testCase
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i].Object = list.Items[i].Object
	}
	return all
}

func objects(t *testing.T, text []byte) []byte {
	t.Helper()
	var all []struct {
		Object json.RawMessage `json:"object"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	raw := make([]json.RawMessage, 0, len(all))
	for _, one := range all {
		raw = append(raw, one.Object)
	}
	joined, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return joined
}

func TestCasesAndExpectationsAreTheSame(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases(t) {
		if _, ok := wanted[c.Name]; !ok {
			t.Errorf("nothing is said of %q", c.Name)
		}
		if seen[c.Name] {
			t.Errorf("%q is there twice", c.Name)
		}
		seen[c.Name] = true
	}
	for name := range wanted {
		if !seen[name] {
			t.Errorf("there is no case %q", name)
		}
	}
}

func TestKstatusAsFluxAndHelmWait(t *testing.T) {
	for _, c := range cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			result, err := status.Compute(&unstructured.Unstructured{Object: c.Object})
			if err != nil {
				t.Fatal(err)
			}
			if result.Status != wanted[c.Name].kstatus {
				t.Errorf("is %s (%s), not %s", result.Status, result.Message, wanted[c.Name].kstatus)
			}
		})
	}
}

// Stalled and Reconciling are there only while they are True, and never both.
func TestConditionsKeepTheRulesOfKstatus(t *testing.T) {
	for _, c := range cases(t) {
		conditions, _, err := unstructured.NestedSlice(c.Object, "status", "conditions")
		if err != nil {
			t.Fatal(err)
		}
		abnormal := 0
		for _, one := range conditions {
			condition := one.(map[string]any)
			if kind := condition["type"]; kind != "Stalled" && kind != "Reconciling" {
				continue
			}
			abnormal++
			if condition["status"] != "True" {
				t.Errorf("%s: %s is %s", c.Name, condition["type"], condition["status"])
			}
		}
		if abnormal > 1 {
			t.Errorf("%s: it is Stalled and Reconciling", c.Name)
		}
	}
}

func TestArgoCD(t *testing.T) {
	script, err := os.ReadFile("../../contrib/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			verdict, message := judge(t, string(script), c.Object)
			if verdict != wanted[c.Name].argo {
				t.Errorf("is %s (%s), not %s", verdict, message, wanted[c.Name].argo)
			}
			if strings.TrimSpace(message) == "" {
				t.Error("it says nothing")
			}
		})
	}
}

// Objects that the operator has not written to, or not to the end.
func TestArgoCDWithoutStatus(t *testing.T) {
	script, err := os.ReadFile("../../contrib/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	metadata := map[string]any{"generation": int64(1)}
	for name, object := range map[string]map[string]any{
		"no status":     {"metadata": metadata},
		"no conditions": {"metadata": metadata, "status": map[string]any{"observedGeneration": int64(1)}},
	} {
		if verdict, message := judge(t, string(script), object); verdict != progressing || message == "" {
			t.Errorf("%s: is %s (%s), not %s", name, verdict, message, progressing)
		}
	}
}

func TestArgoCDSaysWhatFailsThoughItHealsByItself(t *testing.T) {
	script, err := os.ReadFile("../../contrib/argocd/health.lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases(t) {
		if c.Name != "valid, ProviderUnavailable" {
			continue
		}
		_, message := judge(t, string(script), c.Object)
		if !strings.Contains(message, "the latest refresh failed: ProviderUnavailable: it failed") {
			t.Errorf("says only: %s", message)
		}
	}
}

// judge runs a script as Argo CD does: the object is the global `obj`, and of the libraries only these are open.
func judge(t *testing.T, script string, object map[string]any) (verdict, message string) {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returns %s", state.Get(-1).Type())
	}
	return table.RawGetString("status").String(), table.RawGetString("message").String()
}

func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, member := range of {
			table.RawSetString(key, value(state, member))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, member := range of {
			table.Append(value(state, member))
		}
		return table
	case string:
		return lua.LString(of)
	case bool:
		return lua.LBool(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	default:
		return lua.LNil
	}
}
