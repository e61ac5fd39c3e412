//go:build tools

// Package tools names what is built, so that `go mod tidy` keeps its dependencies pinned.
package tools

import (
	_ "sigs.k8s.io/kubefed/cmd/controller-manager"
	_ "sigs.k8s.io/kubefed/cmd/kubefedctl"
	_ "sigs.k8s.io/kubefed/cmd/webhook"
)
