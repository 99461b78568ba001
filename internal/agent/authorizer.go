package agent

import (
	"strings"

	"github.com/orchestrator/orchestrator/internal/acl"
	"github.com/orchestrator/orchestrator/internal/wire"
)

// aclAuthorizer is the authorizer of --acls.
type aclAuthorizer struct{ lists *acl.ACLs }

// Allowed implements Authorizer. Mesos' lists about containers speak of users where this agent asks about a container: such a
// question is about all users, which only an entry for ANY answers.
func (a aclAuthorizer) Allowed(principal wire.Principal, action, object string) bool {
	if strings.HasSuffix(action, "_nested_containers") || strings.HasSuffix(action, "_standalone_containers") {
		object = ""
	}
	if action == "launch_nested_containers" {
		action = "launch_nested_containers_as_user"
	}
	return a.lists.Allowed(principal.Name, action, object)
}
