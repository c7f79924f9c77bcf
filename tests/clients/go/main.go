// Command clients reads a mounted oauth2.json into Go's oauth2.Token, makes one request with it, and reports what came
// of it as one JSON object. A token is never printed: its SHA-256 stands for it. It ends with 0 only if the API
// answered 200.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/oauth2"
)

type report struct {
	Valid         bool      `json:"valid"`
	Expiry        time.Time `json:"expiry"`
	RequestStatus *int      `json:"request_status"`
	SentBearer    *string   `json:"sent_bearer_sha256"`
	UPN           *string   `json:"upn"`
	Error         *string   `json:"error"`
	RefusedHosts  []string  `json:"refused_hosts"`
}

func main() {
	tokenDir := flag.String("token-dir", "", "the mounted directory")
	tokenFile := flag.String("token-file", "oauth2.json", "the file in it")
	apiURL := flag.String("api-url", "https://graph.microsoft.com", "the Graph endpoint, without /v1.0")
	path := flag.String("path", "/me", "what to ask for, under /v1.0")
	flag.Parse()

	done := check(filepath.Join(*tokenDir, *tokenFile), strings.TrimRight(*apiURL, "/")+"/v1.0"+*path)
	if err := json.NewEncoder(os.Stdout).Encode(done); err != nil {
		panic(err)
	}
	if !done.Valid || done.RequestStatus == nil || *done.RequestStatus != http.StatusOK {
		os.Exit(1)
	}
}

func check(file, url string) *report {
	done := &report{RefusedHosts: []string{}}
	fail := func(err error) *report {
		// The type only: a message may quote what was read.
		kind := fmt.Sprintf("%T", err)
		done.Error = &kind
		return done
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return fail(err)
	}
	var token oauth2.Token
	if err := json.Unmarshal(content, &token); err != nil {
		return fail(err)
	}
	done.Valid, done.Expiry = token.Valid(), token.Expiry

	loopback := &loopbackOnly{}
	base := &http.Client{Transport: &http.Transport{DialContext: loopback.dial}}
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, base)
	client := oauth2.NewClient(ctx, oauth2.StaticTokenSource(&token))
	client.Timeout = 30 * time.Second
	response, err := client.Get(url)
	done.RefusedHosts = loopback.list()
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	done.RequestStatus = &response.StatusCode
	if scheme, bearer, found := strings.Cut(response.Request.Header.Get("Authorization"), " "); found && scheme == "Bearer" {
		digest := sha256.Sum256([]byte(bearer))
		sent := hex.EncodeToString(digest[:])
		done.SentBearer = &sent
	}
	var me struct {
		UPN *string `json:"userPrincipalName"`
	}
	if err := json.NewDecoder(response.Body).Decode(&me); err != nil {
		return fail(err)
	}
	done.UPN = me.UPN
	return done
}

// loopbackOnly refuses to connect anywhere but on loopback, and remembers where it refused to.
type loopbackOnly struct {
	mutex   sync.Mutex
	refused []string
}

func (l *loopbackOnly) dial(ctx context.Context, network, address string) (net.Conn, error) {
	refuse := func() error {
		l.mutex.Lock()
		defer l.mutex.Unlock()
		l.refused = append(l.refused, address)
		return fmt.Errorf("only loopback is allowed, not %s", address)
	}
	dialer := net.Dialer{
		// Names are looked up in /etc/hosts, where hostAliases may have given loopback the name of a real service, and
		// asked of nobody.
		Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, refuse()
		}},
		ControlContext: func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(resolved); err == nil && at.Addr().IsLoopback() {
				return nil
			}
			return refuse()
		},
	}
	return dialer.DialContext(ctx, network, address)
}

func (l *loopbackOnly) list() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return append([]string{}, l.refused...)
}
