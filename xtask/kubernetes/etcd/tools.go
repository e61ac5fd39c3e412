//go:build tools

// Package tools names what is built, so that `go mod tidy` keeps its dependencies pinned.
package tools

import _ "go.etcd.io/etcd/server/v3"
