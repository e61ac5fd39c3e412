package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const idleTimeout = time.Hour

// handler serves the paths that kube-apiserver asks a kubelet for, with the streaming server of the container runtimes.
func (k *kubelet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if options, ok := k.options(w, r); ok {
			remotecommand.ServeExec(w, r, k, name(r), "", r.PathValue("container"), r.URL.Query()["command"], options,
				idleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
		}
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if options, ok := k.options(w, r); ok {
			remotecommand.ServeAttach(w, r, k, name(r), "", r.PathValue("container"), options,
				idleTimeout, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
		}
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, k, name(r), "", options,
			idleTimeout, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
	})
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.logs)
	return mux
}

func name(r *http.Request) string { return r.PathValue("namespace") + "/" + r.PathValue("pod") }

// options reads which streams are wanted, and refuses where there is no such container.
func (k *kubelet) options(w http.ResponseWriter, r *http.Request) (*remotecommand.Options, bool) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	if _, err := k.named(name(r)); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, false
	}
	return options, true
}

// ExecInContainer is the streaming server's question for a process.
func (k *kubelet) ExecInContainer(_ context.Context, pod, _, _ string, argv []string, in io.Reader, out, stderr io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	c, err := k.named(pod)
	if err != nil {
		return err
	}
	if tty {
		return c.terminal(argv, in, out, resize)
	}
	return c.exec(argv, in, out, stderr)
}

// AttachContainer is the streaming server's question for the process that runs.
func (k *kubelet) AttachContainer(_ context.Context, pod, _, _ string, in io.Reader, out, stderr io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	c, err := k.named(pod)
	if err != nil {
		return err
	}
	c.attach(in, writer(out), writer(stderr))
	return nil
}

// writer keeps an absent stream a plain nil.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

// PortForward joins the stream with a port of this machine, which is the Pod's too.
func (k *kubelet) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := net.Dial("tcp", net.JoinHostPort(loopback, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, conn)
	return err
}

// logs writes what the container has written, and with `follow` what it will, until it ends or the client goes.
func (k *kubelet) logs(w http.ResponseWriter, r *http.Request) {
	c, err := k.named(name(r))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	file, err := os.Open(c.log.Name())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	for {
		c.lock.Lock()
		grown := c.grown
		c.lock.Unlock()
		// Asked for before the read, so that what is written before the end is read.
		ended := isClosed(c.ended)
		_, err := io.Copy(w, file)
		err = errors.Join(err, http.NewResponseController(w).Flush())
		if err != nil || ended || r.URL.Query().Get("follow") != "true" {
			return
		}
		select {
		case <-grown:
		case <-c.ended:
		case <-r.Context().Done():
			// The tests look for this line to know that a client's departure arrives here.
			log.Printf("the reader of %s has gone", name(r))
			return
		}
	}
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
