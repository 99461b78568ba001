package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	agentv1 "github.com/orchestrator/orchestrator/api/mesos/v1/agent"
	"github.com/orchestrator/orchestrator/internal/agent/containerizer"
	"github.com/orchestrator/orchestrator/internal/ids"
	"github.com/orchestrator/orchestrator/internal/wire"
)

const (
	// attachHeartbeat is the interval of heartbeats on output streams (facts 3.3).
	attachHeartbeat = 30 * time.Second
	// maxInputRecord bounds one record of a client's input.
	maxInputRecord = 4 << 20
	// outputAhead is how many records may wait for a client before the container's output is not read any further.
	outputAhead = 128
	// inputSilence ends an input stream on which not even heartbeats come.
	inputSilence = 10 * time.Minute
)

// heartbeatIO is the ProcessIO record that keeps a connection alive.
func heartbeatIO() *agentv1.ProcessIO {
	return &agentv1.ProcessIO{Type: agentv1.ProcessIO_CONTROL.Enum(), Control: &agentv1.ProcessIO_Control{
		Type: agentv1.ProcessIO_Control_HEARTBEAT.Enum(),
		Heartbeat: &agentv1.ProcessIO_Control_Heartbeat{Interval: &mesosv1.DurationInfo{
			Nanoseconds: proto.Int64(attachHeartbeat.Nanoseconds()),
		}},
	}}
}

// outputType negotiates an output stream: application/recordio with the records' type in Message-Accept, or the records'
// type alone.
func outputType(w http.ResponseWriter, r *http.Request) (ct wire.ContentType, media string, ok bool) {
	recordio := slices.ContainsFunc(strings.Split(strings.Join(r.Header.Values("Accept"), ","), ","), func(part string) bool {
		name, _, _ := strings.Cut(part, ";")
		return strings.TrimSpace(name) == wire.MediaRecordIO
	})
	if recordio {
		inner := r.Clone(r.Context())
		inner.Header.Del("Accept")
		if accept := r.Header.Get("Message-Accept"); accept != "" {
			inner.Header.Set("Accept", accept)
		}
		if ct, ok = wire.Negotiate(inner); ok {
			w.Header().Set("Message-Content-Type", ct.String())
			return ct, wire.MediaRecordIO, true
		}
	} else if ct, ok = wire.Negotiate(r); ok {
		return ct, ct.String(), true
	}
	wire.NotAcceptable(w)
	return 0, "", false
}

// attachOutput streams what a container writes.
func (a *Agent) attachOutput(w http.ResponseWriter, r *http.Request, m *mesosv1.ContainerID) {
	id, err := containerID(m)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, err.Error())
		return
	}
	if !a.may(w, r, "attach_containers_output", string(id)) {
		return
	}
	ct, media, ok := outputType(w, r)
	if !ok {
		return
	}
	attachment, err := a.boxes.boxes.Attach(r.Context(), id)
	if err != nil {
		w.Header().Del("Message-Content-Type")
		wire.Error(w, httpStatus(err), "Cannot attach to the output of container "+string(id)+": "+err.Error())
		return
	}
	defer attachment.Close()
	a.stream(w, r, ct, media, attachment)
}

// stream copies a container's output to a client until either ends. A client that reads slowly slows the reading down,
// nothing else.
func (a *Agent) stream(w http.ResponseWriter, r *http.Request, ct wire.ContentType, media string, attachment containerizer.Attachment) {
	s, err := wire.NewStream(w, r, wire.StreamConfig{
		ContentType: ct, Media: media, Heartbeat: wire.NewEvent(heartbeatIO()), Interval: attachHeartbeat,
		MaxBytes: int(a.cfg.StreamQueue), Metrics: a.metrics.streams,
	})
	if err != nil {
		return
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		for {
			rec, err := attachment.Recv()
			if err != nil {
				s.Close(nil)
				return
			}
			if !s.Send(wire.NewEvent(rec)) {
				return
			}
			for s.Pending() > outputAhead {
				select {
				case <-s.Done():
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		}
	}()
	_ = s.Serve(r.Context()) // a client that went away is no fault
	attachment.Close()       // ends the copying
	<-copied
}

// launchSession starts a container that lives as long as this request, and streams its output.
func (a *Agent) launchSession(w http.ResponseWriter, r *http.Request, c *agentv1.Call_LaunchNestedContainerSession) {
	id, err := containerID(c.GetContainerId())
	if err == nil && !isNested(id) {
		err = errors.New("Expecting 'container_id.parent' to be present") //nolint:staticcheck // Mesos' own words
	}
	if err != nil {
		wire.Error(w, http.StatusBadRequest, err.Error())
		return
	}
	if !a.may(w, r, "launch_nested_container_sessions_as_user", c.GetCommand().GetUser()) {
		return
	}
	ct, media, ok := outputType(w, r)
	if !ok {
		return
	}
	refuse := func(status int, text string) {
		w.Header().Del("Message-Content-Type")
		wire.Error(w, status, text)
	}
	if held, there := a.boxes.find(id); there && !held.Ended {
		refuse(http.StatusConflict, "Container "+string(id)+" exists already")
		return
	}
	cfg, err := a.boxes.nested(id, containerizer.Session, c.GetCommand(), c.GetContainer(), nil)
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	if err := a.boxes.boxes.Launch(r.Context(), cfg); err != nil {
		refuse(http.StatusBadRequest, "Failed to launch container "+string(id)+": "+err.Error())
		return
	}
	defer a.endSession(id)
	attachment, err := a.boxes.boxes.Attach(r.Context(), id)
	if err != nil {
		refuse(httpStatus(err), "Cannot attach to container "+string(id)+": "+err.Error())
		return
	}
	defer attachment.Close()
	a.stream(w, r, ct, media, attachment)
}

// endSession kills what a session started. How it ended stays to be asked for with WAIT_CONTAINER.
func (a *Agent) endSession(id ids.Container) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := a.boxes.boxes.Destroy(ctx, id); err != nil && !errors.Is(err, containerizer.ErrNotFound) {
		a.log.Warn("cannot end a session's container", "container_id", id, "err", err)
	}
}

// attachInput passes a stream of records to a container's input: the container's id first.
func (a *Agent) attachInput(w http.ResponseWriter, r *http.Request) {
	ct, ok := wire.ParseContentType(r.Header.Get("Message-Content-Type"))
	if !ok {
		wire.Error(w, http.StatusUnsupportedMediaType, "Expecting 'Message-Content-Type' of "+wire.MediaJSON+" or "+wire.MediaProtobuf)
		return
	}
	rc := http.NewResponseController(w)
	// Input flows while output of the same connection may not have begun: an answer before the end of the request.
	_ = rc.EnableFullDuplex()
	records := wire.NewRecordReader(r.Body, maxInputRecord)
	next := func() (*agentv1.Call, error) {
		_ = rc.SetReadDeadline(time.Now().Add(inputSilence))
		rec, err := records.Next()
		if err != nil {
			return nil, err
		}
		c := &agentv1.Call{}
		if err := ct.Unmarshal(rec, c); err != nil {
			return nil, badRequest("Failed to parse a record: %v", err)
		}
		if c.GetType() != agentv1.Call_ATTACH_CONTAINER_INPUT || c.GetAttachContainerInput() == nil {
			return nil, badRequest("Expecting records of type ATTACH_CONTAINER_INPUT")
		}
		return c, nil
	}
	fail := func(err error) {
		status := httpStatus(err)
		if errors.Is(err, wire.ErrRecord) || errors.Is(err, io.ErrUnexpectedEOF) {
			status = http.StatusBadRequest
		}
		wire.Error(w, status, err.Error())
	}
	first, err := next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = badRequest("Expecting a first record of type CONTAINER_ID")
		}
		fail(err)
		return
	}
	in := first.GetAttachContainerInput()
	if in.GetType() != agentv1.Call_AttachContainerInput_CONTAINER_ID {
		fail(badRequest("Expecting 'attach_container_input.type' to be CONTAINER_ID"))
		return
	}
	id, err := containerID(in.GetContainerId())
	if err != nil {
		fail(badRequest("%v", err))
		return
	}
	if !a.may(w, r, "attach_containers_input", string(id)) {
		return
	}
	attachment, err := a.boxes.boxes.Attach(r.Context(), id)
	if err != nil {
		fail(err)
		return
	}
	defer attachment.Close()
	// A container that ends ends its input too.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := attachment.Recv(); err != nil {
				_ = rc.SetReadDeadline(time.Unix(1, 0))
				return
			}
		}
	}()
	defer func() { attachment.Close(); <-ended }()
	for {
		c, err := next()
		switch {
		case errors.Is(err, io.EOF):
			wire.Empty(w, http.StatusOK)
			return
		case err != nil:
			select {
			case <-ended:
				wire.Empty(w, http.StatusOK) // it has ended: what the client still had to say is for nobody
			default:
				fail(err)
			}
			return
		}
		process := c.GetAttachContainerInput().GetProcessIo()
		if c.GetAttachContainerInput().GetType() != agentv1.Call_AttachContainerInput_PROCESS_IO || process == nil {
			fail(badRequest("Expecting 'attach_container_input.type' to be PROCESS_IO"))
			return
		}
		if process.GetControl().GetType() == agentv1.ProcessIO_Control_HEARTBEAT {
			continue
		}
		if err := attachment.Send(process); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, containerizer.ErrNotFound) {
				wire.Empty(w, http.StatusOK)
				return
			}
			fail(err)
			return
		}
	}
}
