// Gssbench times an export and an import of MIT's library with libsealctx-gss in front
// of it, or the bare exchanges that these need:
//
//	gssbench DIR library|bare N
//
// DIR has the programs sealctx, mitbench and bare, and libsealctx-gss.so. It runs under
// withkdc and prints the nanoseconds of one round.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: gssbench DIR library|bare N")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "gssbench:", err)
		os.Exit(1)
	}
}

func run(dir, what, n string) error {
	work, err := os.MkdirTemp("", "gssbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	socket := filepath.Join(work, "agent.sock")
	switch what {
	case "library":
		return library(dir, socket, n)
	case "bare":
		l, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		defer l.Close()
		go serve(l)
		return program(filepath.Join(dir, "bare"), nil, socket, n)
	}
	return fmt.Errorf("nothing is called %q", what)
}

func library(dir, socket, n string) error {
	agent := exec.Command(filepath.Join(dir, "sealctx"), "agent", "--socket", socket)
	if err := agent.Start(); err != nil {
		return err
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	for range 1000 {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			lib, err := filepath.Abs(filepath.Join(dir, "libsealctx-gss.so"))
			if err != nil {
				return err
			}
			return program(filepath.Join(dir, "mitbench"), []string{"LD_PRELOAD=" + lib, "SEALCTX_GSS=socket=" + socket}, "export", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the agent does not start")
}

func program(path string, env []string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// serve answers each request with as many bytes as it asks for.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			frame := make([]byte, 65536)
			for {
				n, err := io.ReadAtLeast(c, frame, 8)
				if err != nil {
					return
				}
				request, answer := binary.NativeEndian.Uint32(frame), binary.NativeEndian.Uint32(frame[4:])
				if n < int(request) {
					if _, err := io.ReadFull(c, frame[n:request]); err != nil {
						return
					}
				}
				if _, err := c.Write(frame[:answer]); err != nil {
					return
				}
			}
		}()
	}
}
