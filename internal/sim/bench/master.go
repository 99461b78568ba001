package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/orchestrator/orchestrator/internal/config"
	"github.com/orchestrator/orchestrator/internal/heapfloor"
	"github.com/orchestrator/orchestrator/internal/master"
)

// MasterOptions are those of a master to be measured.
type MasterOptions struct {
	WorkDir   string // of its registry; empty: in memory
	ReadyFile string
	Profile   string   // file for a CPU profile of the whole run, and, with ".heap" behind it, one of the heap as it was last collected
	Flags     []string // further flags of the master
	Listener  net.Listener
	Log       *slog.Logger
}

// NewMaster makes a master as the benchmarks use it: on loopback, with a free port.
func NewMaster(o MasterOptions) (*master.Master, error) {
	args := []string{"--ip=127.0.0.1", "--port=0", "--hostname=127.0.0.1"}
	if o.WorkDir == "" {
		args = append(args, "--registry=in_memory")
	} else {
		args = append(args, "--work_dir="+o.WorkDir)
	}
	cfg := new(master.Config)
	fs := pflag.NewFlagSet("master", pflag.ContinueOnError)
	set := config.Bind(fs, cfg, master.BindOptions())
	if err := fs.Parse(append(args, o.Flags...)); err != nil {
		return nil, err
	}
	if err := set.Load(func(string) (string, bool) { return "", false }); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return master.New(*cfg, master.Deps{Log: o.Log, Listener: o.Listener, Flags: set.Values()})
}

// RunMaster runs such a master as a process of a benchmark until ctx is done. SIGUSR1 makes it collect its garbage.
func RunMaster(ctx context.Context, o MasterOptions) error {
	defer heapfloor.Set(heapfloor.ForHost())() // as `orchestrator master` has it
	m, err := NewMaster(o)
	if err != nil {
		return err
	}
	if o.Profile != "" {
		f, err := os.Create(o.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	collect := make(chan os.Signal, 1)
	signal.Notify(collect, syscall.SIGUSR1)
	defer signal.Stop(collect)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	ready := m.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			if err := WriteReady(o.ReadyFile, Ready{Master: "http://" + m.Address(), PID: os.Getpid()}); err != nil {
				return errors.Join(fmt.Errorf("writing the ready file: %w", err), stop(cancel, ended))
			}
		case <-collect:
			debug.FreeOSMemory()
			if o.Profile != "" {
				if err := heapProfile(o.Profile + ".heap"); err != nil {
					return errors.Join(err, stop(cancel, ended))
				}
			}
		case err := <-ended:
			return err
		}
	}
}

func heapProfile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.WriteHeapProfile(f)
}

func stop(cancel context.CancelFunc, ended <-chan error) error {
	cancel()
	return <-ended
}
