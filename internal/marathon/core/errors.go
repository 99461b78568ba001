package core

import "fmt"

// NotFound: what was asked for does not exist. What is the whole message.
type NotFound struct{ What string }

func (e *NotFound) Error() string { return e.What }

// Conflict: it exists already. What is the whole message.
type Conflict struct{ What string }

func (e *Conflict) Error() string { return e.What }

// Locked: running deployments touch the same specs.
type Locked struct{ Deployments []string }

func (e *Locked) Error() string {
	return "App is locked by one or more deployments. Override with the option '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'."
}

// TooManyDeployments: as many as allowed are running.
type TooManyDeployments struct{ Max int }

func (e *TooManyDeployments) Error() string {
	return fmt.Sprintf("Max number (%d) of running deployments is achieved. Wait for existing deployments to complete or cancel one using DELETE /v2/deployments/{id}. You can increase max deployment number by using --max_running_deployments parameter", e.Max)
}

// BadRequest: the request can't be understood. What is the whole message.
type BadRequest struct{ What string }

func (e *BadRequest) Error() string { return e.What }
