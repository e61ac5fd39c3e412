package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// container is one process, its log, and who is attached to it.
type container struct {
	spec    *core.Container
	dir     string
	started meta.Time
	process *os.Process
	stdin   io.WriteCloser
	ended   chan struct{}
	// The exit code, once it has ended.
	code int

	lock sync.Mutex
	log  *os.File
	// Closed, and another put in its place, at each write to the log.
	grown    chan struct{}
	attached map[*attachment]struct{}
}

type attachment struct {
	out, err io.Writer
	// Closed when the client takes nothing more.
	gone chan struct{}
}

// start runs the container's command in a directory of its own.
func start(dir string, spec *core.Container) (*container, error) {
	if err := os.MkdirAll(filepath.Join(dir, "work"), 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	c := &container{
		spec: spec, dir: filepath.Join(dir, "work"), started: meta.Now(), log: log,
		ended: make(chan struct{}), grown: make(chan struct{}), attached: map[*attachment]struct{}{},
	}
	argv := append(append([]string{}, spec.Command...), spec.Args...)
	if len(argv) == 0 {
		argv = []string{"sleep", "infinity"}
	}
	cmd := c.command(argv)
	cmd.Stdout = tee{c, func(a *attachment) io.Writer { return a.out }}
	cmd.Stderr = tee{c, func(a *attachment) io.Writer { return a.err }}
	if spec.Stdin {
		if c.stdin, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.process = cmd.Process
	go func() {
		_ = cmd.Wait()
		c.code = cmd.ProcessState.ExitCode()
		close(c.ended)
	}()
	return c, nil
}

// command is a process of the container: in its directory, in a session of its own, and dead when the kubelet is.
func (c *container) command(argv []string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "TERM=xterm"}
	for _, variable := range c.spec.Env {
		cmd.Env = append(cmd.Env, variable.Name+"="+variable.Value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (c *container) kill() {
	select {
	case <-c.ended:
	default:
		_ = syscall.Kill(-c.process.Pid, syscall.SIGKILL)
	}
}

// tee writes to the log and to whoever is attached.
type tee struct {
	c    *container
	side func(*attachment) io.Writer
}

func (t tee) Write(data []byte) (int, error) {
	t.c.lock.Lock()
	defer t.c.lock.Unlock()
	if _, err := t.c.log.Write(data); err != nil {
		return 0, err
	}
	close(t.c.grown)
	t.c.grown = make(chan struct{})
	for a := range t.c.attached {
		if to := t.side(a); to != nil {
			if _, err := to.Write(data); err != nil {
				delete(t.c.attached, a)
				close(a.gone)
			}
		}
	}
	return len(data), nil
}

// attach passes the streams on until the process ends or the client has gone.
func (c *container) attach(in io.Reader, out, err io.Writer) {
	a := &attachment{out, err, make(chan struct{})}
	c.lock.Lock()
	c.attached[a] = struct{}{}
	c.lock.Unlock()
	if in != nil && c.stdin != nil {
		go func() {
			_, _ = io.Copy(c.stdin, in)
			if c.spec.StdinOnce {
				_ = c.stdin.Close()
			}
		}()
	}
	select {
	case <-c.ended:
	case <-a.gone:
	}
	c.lock.Lock()
	delete(c.attached, a)
	c.lock.Unlock()
}

// exec runs another process in the container and gives its exit code as the error that the streaming server expects.
func (c *container) exec(argv []string, in io.Reader, out, err io.WriteCloser) error {
	cmd := c.command(argv)
	if out != nil {
		cmd.Stdout = out
	}
	if err != nil {
		cmd.Stderr = err
	}
	if in != nil {
		stdin, failed := cmd.StdinPipe()
		if failed != nil {
			return failed
		}
		// Not `cmd.Stdin`: the end of the process would then wait for the end of the client's input.
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	return exitOf(cmd.Run())
}

// terminal is exec with a pseudo terminal.
func (c *container) terminal(argv []string, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd := c.command(argv)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	slave.Close()
	if err != nil {
		return err
	}
	go func() {
		for size := range resize {
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(master, in) }()
	}
	printed := make(chan struct{})
	go func() {
		// The other end's last close shows as an error; either way it is the end.
		_, _ = io.Copy(out, master)
		close(printed)
	}()
	<-printed
	return exitOf(cmd.Wait())
}

func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, slave, err
}

func exitOf(err error) error {
	if exit, ok := err.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: err, Code: exit.ExitCode()}
	}
	return err
}
