package master

import (
	"github.com/orchestrator/orchestrator/internal/acl"
	"github.com/orchestrator/orchestrator/internal/master/core"
)

// authorizer makes the authorizer of --acls; nil allows everything.
func (c *Config) authorizer() (core.Authorizer, error) {
	if c.ACLs == "" {
		return nil, nil
	}
	lists, err := acl.Parse([]byte(c.ACLs))
	if err != nil {
		return nil, err
	}
	return aclAuthorizer{lists}, nil
}

type aclAuthorizer struct{ lists *acl.ACLs }

// Authorized implements core.Authorizer.
func (a aclAuthorizer) Authorized(principal string, action core.Action, object string) bool {
	return a.lists.Allowed(principal, string(action), object)
}
