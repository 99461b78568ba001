package fetcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orchestrator/orchestrator/internal/agent/osthread"
)

// transport is an HTTP client's, that refuses addresses after they have been resolved: a name that resolves to one does
// not get past it, and neither does a redirect.
func transport(cfg Config) http.RoundTripper {
	d := &net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if a := ap.Addr().Unmap(); a.IsLinkLocalUnicast() && !cfg.AllowLinkLocal {
			return fmt.Errorf("%s is a link-local address, from which tasks may not fetch", a)
		}
		return nil
	}}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSHandshakeTimeout: 30 * time.Second,
		ResponseHeaderTimeout: cfg.StallTimeout, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: 1 << 20, DisableCompression: true, ForceAttemptHTTP2: true,
	}
}

var errTooLarge = errors.New("the file is larger than the agent allows")

// transfer copies the source into w. reserve, where given, is told what will come in total as soon as that is known and
// with every portion beyond it; its error ends the transfer.
func (f *Fetcher) transfer(ctx context.Context, src *source, r *Request, w io.Writer, reserve func(total int64) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var body io.ReadCloser
	var size int64
	if src.url != nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, src.url.String(), nil)
		if err != nil {
			return err
		}
		req.Header.Set("User-Agent", "orchestrator-fetcher")
		resp, err := f.client.Do(req) //nolint:bodyclose // body is closed below, as a file is
		if err != nil {
			return err
		}
		body, size = resp.Body, resp.ContentLength
		if resp.StatusCode != http.StatusOK {
			body.Close()
			return fmt.Errorf("the server answered %s", resp.Status)
		}
	} else {
		file, err := openAs(src.path, r)
		if err != nil {
			return err
		}
		fi, err := file.Stat()
		if err == nil && !fi.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", src.path)
		}
		if err != nil {
			file.Close()
			return err
		}
		body, size = file, fi.Size()
	}
	defer body.Close()
	if size > f.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes, limit %d", errTooLarge, size, f.cfg.MaxBytes)
	}
	if reserve != nil && size > 0 {
		if err := reserve(size); err != nil {
			return err
		}
	}

	stall := time.AfterFunc(f.cfg.StallTimeout, func() {
		cancel(fmt.Errorf("nothing arrived for %s", f.cfg.StallTimeout))
		body.Close()
	})
	defer stall.Stop()
	buf := make([]byte, 128<<10)
	var got int64
	for {
		n, err := body.Read(buf)
		if n > 0 {
			got += int64(n)
			stall.Reset(f.cfg.StallTimeout)
			if got > f.cfg.MaxBytes {
				return fmt.Errorf("%w: limit %d", errTooLarge, f.cfg.MaxBytes)
			}
			if reserve != nil && got > size {
				if err := reserve(got); err != nil {
					return err
				}
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			if size >= 0 && got != size {
				return fmt.Errorf("%d of %d bytes arrived", got, size)
			}
			return nil
		case err != nil:
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
}

// openAs opens a local file with the rights of the task's user: the agent's own would show it what is not for it. Rights
// to files belong to a thread, so one takes them on, opens, and ends.
func openAs(path string, r *Request) (*os.File, error) {
	if r.UID < 0 || os.Geteuid() != 0 {
		return os.Open(path)
	}
	var f *os.File
	var err error
	osthread.Run(func() {
		var groups unsafe.Pointer
		if len(r.Groups) > 0 {
			groups = unsafe.Pointer(&r.Groups[0])
		}
		// The raw call, unlike the library's, changes this thread alone.
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(r.Groups)), uintptr(groups), 0); e != 0 {
			err = os.NewSyscallError("setgroups", e)
			return
		}
		if err = errors.Join(unix.Setfsgid(r.GID), unix.Setfsuid(r.UID)); err != nil {
			return
		}
		fd, oerr := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if oerr != nil {
			err = &os.PathError{Op: "open", Path: path, Err: oerr}
			return
		}
		f = os.NewFile(uintptr(fd), path)
	})
	return f, err
}
