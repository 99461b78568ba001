package link_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/orchestrator/orchestrator/api/link/v1"
	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
	"github.com/orchestrator/orchestrator/internal/wire/link"
)

// What is encoded by hand is what the generated code makes of the message.
func TestAppendUpdateAck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ framework, task, uuid string }{
		{"f", "t", "0123456789abcdef"},
		{strings.Repeat("f", 127), strings.Repeat("t", 128), strings.Repeat("u", 16)},
		{strings.Repeat("f", 20000), "", ""},
	} {
		want, err := (&linkv1.Message{Kind: &linkv1.Message_UpdateAck{UpdateAck: &linkv1.UpdateAck{
			FrameworkId: &mesosv1.FrameworkID{Value: &c.framework}, TaskId: &mesosv1.TaskID{Value: proto.String(c.task)}, Uuid: []byte(c.uuid),
		}}}).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		if got := link.AppendUpdateAck([]byte("before"), c.framework, c.task, []byte(c.uuid)); string(got) != "before"+string(want) {
			t.Errorf("%.10q, %.10q:\n got %.80q\nwant %.80q", c.framework, c.task, got, "before"+string(want))
		}
	}
}
