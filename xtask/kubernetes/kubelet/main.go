// The stand-in for a kubelet on the clusters of the tests: a Node that is Ready, Pods that run as processes of this
// machine, and the kubelet's streaming API for them. There are no images, no isolation and no volumes; it is no part of
// Hansa and must never leave a test.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

const (
	loopback      = "127.0.0.1"
	renewInterval = 5 * time.Second
)

type kubelet struct {
	client kubernetes.Interface
	node   string
	root   string

	lock sync.Mutex
	// By "namespace/name" of the Pod; one container a Pod.
	containers map[string]*container
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the administrator's kubeconfig of the cluster")
	node := flag.String("node", "node", "the name of the Node")
	root := flag.String("root", "", "where the Pods' directories go")
	cert := flag.String("tls-cert-file", "", "the certificate to serve with")
	key := flag.String("tls-private-key-file", "", "its key")
	authority := flag.String("client-ca-file", "", "who issued the client certificates that are let in")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	must(err)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	must(err)
	k := &kubelet{client: client, node: *node, root: *root, containers: map[string]*container{}}

	// Whoever reaches this port may run programs as us, so a certificate of the test's own authority is demanded.
	pem, err := os.ReadFile(*authority)
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	must(err)
	server := &http.Server{
		Handler:   k.handler(),
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool},
	}
	go func() { must(server.ServeTLS(listener, *cert, *key)) }()

	k.register(int32(listener.Addr().(*net.TCPAddr).Port))
	k.follow()
	log.Printf("node %s is ready", *node)
	for {
		k.renew()
		time.Sleep(renewInterval)
	}
}

// register creates the Node and says that it is Ready and where it is.
func (k *kubelet) register(port int32) {
	ctx := context.Background()
	nodes := k.client.CoreV1().Nodes()
	node := &core.Node{ObjectMeta: meta.ObjectMeta{Name: k.node}}
	if _, err := nodes.Create(ctx, node, meta.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		must(err)
	}
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(ctx, k.node, meta.GetOptions{})
		if err != nil {
			return err
		}
		node.Status = core.NodeStatus{
			Addresses:       []core.NodeAddress{{Type: core.NodeInternalIP, Address: loopback}},
			DaemonEndpoints: core.NodeDaemonEndpoints{KubeletEndpoint: core.DaemonEndpoint{Port: port}},
			Conditions: []core.NodeCondition{{
				Type: core.NodeReady, Status: core.ConditionTrue, Reason: "KubeletReady", LastTransitionTime: meta.Now(),
			}},
		}
		_, err = nodes.UpdateStatus(ctx, node, meta.UpdateOptions{})
		return err
	}))
}

// renew tells the node controller that this node lives.
func (k *kubelet) renew() {
	ctx := context.Background()
	leases := k.client.CoordinationV1().Leases(core.NamespaceNodeLease)
	now, seconds := meta.NowMicro(), int32(40)
	lease, err := leases.Get(ctx, k.node, meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordination.Lease{
			ObjectMeta: meta.ObjectMeta{Name: k.node},
			Spec:       coordination.LeaseSpec{HolderIdentity: &k.node, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, meta.CreateOptions{})
	} else if err == nil {
		lease.Spec.RenewTime = &now
		_, err = leases.Update(ctx, lease, meta.UpdateOptions{})
	}
	complain("renew the lease", err)
}

// follow acts on every Pod of the cluster, from one goroutine.
func (k *kubelet) follow() {
	factory := informers.NewSharedInformerFactory(k.client, 0)
	pods := factory.Core().V1().Pods().Informer()
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(pod any) { k.sync(pod.(*core.Pod)) },
		UpdateFunc: func(_, pod any) { k.sync(pod.(*core.Pod)) },
	})
	must(err)
	factory.Start(context.Background().Done())
	factory.WaitForCacheSync(context.Background().Done())
}

// sync takes the Pod one step further: running, gone. There is no scheduler: who wants a Pod to run says `nodeName`.
func (k *kubelet) sync(pod *core.Pod) {
	ctx := context.Background()
	name := pod.Namespace + "/" + pod.Name
	running, _ := k.named(name)
	switch {
	case pod.Spec.NodeName != k.node:
	case pod.DeletionTimestamp != nil:
		if running != nil {
			running.kill()
			k.lock.Lock()
			delete(k.containers, name)
			k.lock.Unlock()
		}
		now := int64(0)
		err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, meta.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: &meta.Preconditions{UID: &pod.UID},
		})
		complain("remove "+name, err)
	case running == nil && pod.Status.Phase == core.PodPending:
		c, err := start(filepath.Join(k.root, string(pod.UID)), &pod.Spec.Containers[0])
		if err != nil {
			complain("start "+name, err)
			return
		}
		k.lock.Lock()
		k.containers[name] = c
		k.lock.Unlock()
		k.report(pod.Namespace, pod.Name, pod.UID, c)
		go func() {
			<-c.ended
			k.report(pod.Namespace, pod.Name, pod.UID, c)
		}()
	}
}

// report writes what has become of the container into the Pod's status.
func (k *kubelet) report(namespace, name string, uid types.UID, c *container) {
	ctx := context.Background()
	phase, ready := core.PodRunning, core.ConditionTrue
	state := core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: c.started}}
	select {
	case <-c.ended:
		phase, ready = core.PodSucceeded, core.ConditionFalse
		if c.code != 0 {
			phase = core.PodFailed
		}
		state = core.ContainerState{Terminated: &core.ContainerStateTerminated{
			ExitCode: int32(c.code), StartedAt: c.started, FinishedAt: meta.Now(), ContainerID: "process://" + name,
		}}
	default:
	}
	started := state.Running != nil
	status := core.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, ContainerID: "process://" + name,
		State: state, Ready: started, Started: &started,
	}
	pods := k.client.CoreV1().Pods(namespace)
	complain("report "+namespace+"/"+name, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod, err := pods.Get(ctx, name, meta.GetOptions{})
		if err != nil || pod.UID != uid {
			return err
		}
		pod.Status.Phase, pod.Status.StartTime = phase, &c.started
		pod.Status.HostIP, pod.Status.HostIPs = loopback, []core.HostIP{{IP: loopback}}
		pod.Status.PodIP, pod.Status.PodIPs = loopback, []core.PodIP{{IP: loopback}}
		pod.Status.ContainerStatuses = []core.ContainerStatus{status}
		pod.Status.Conditions = []core.PodCondition{
			{Type: core.PodScheduled, Status: core.ConditionTrue, LastTransitionTime: c.started},
			{Type: core.PodInitialized, Status: core.ConditionTrue, LastTransitionTime: c.started},
			{Type: core.ContainersReady, Status: ready, LastTransitionTime: meta.Now()},
			{Type: core.PodReady, Status: ready, LastTransitionTime: meta.Now()},
		}
		_, err = pods.UpdateStatus(ctx, pod, meta.UpdateOptions{})
		return err
	}))
}

// named is the container of the Pod `namespace/name`.
func (k *kubelet) named(pod string) (*container, error) {
	k.lock.Lock()
	defer k.lock.Unlock()
	if c := k.containers[pod]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("nothing runs for pod %s", pod)
}

func complain(what string, err error) {
	if err != nil && !apierrors.IsNotFound(err) {
		log.Printf("cannot %s: %v", what, err)
	}
}

func must(err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
