package resources

import (
	"errors"
	"fmt"
	"path"
	"strings"

	mesosv1 "github.com/orchestrator/orchestrator/api/mesos/v1"
)

// maxNameLength bounds a resource's name, which becomes a metric key.
const maxNameLength = 256

// maxReservations bounds the stack of refinements.
const maxReservations = 32

// validate checks one message (facts: Mesos resources.cpp, Resources::validate). Values are checked by fromProto.
func validate(p *mesosv1.Resource) error {
	if p == nil {
		return errors.New("resource is missing")
	}
	switch name := p.GetName(); {
	case rankOf(name) < 5: // a well-known name
	case name == "":
		return errors.New("empty resource name")
	case len(name) > maxNameLength:
		return fmt.Errorf("resource name is longer than %d bytes", maxNameLength)
	case strings.ContainsAny(name, ":;()[]{}<>\"\\") || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return fmt.Errorf("resource name %q contains a character that the text form reserves", name)
	}
	if p.Type == nil {
		return errors.New("resource has no type")
	}
	if err := validateValue(p); err != nil {
		return err
	}
	if err := validateReservations(p); err != nil {
		return err
	}
	if err := validateDisk(p); err != nil {
		return err
	}
	if p.Shared != nil {
		if p.GetDisk().GetPersistence() == nil {
			return errors.New("only persistent volumes can be shared")
		}
		if p.Revocable != nil {
			return errors.New("a shared resource can't be revocable")
		}
	}
	if p.AllocationInfo != nil && p.AllocationInfo.Role != nil {
		if err := ValidateRole(p.AllocationInfo.GetRole()); err != nil {
			return fmt.Errorf("invalid allocation role: %w", err)
		}
	}
	if p.ProviderId != nil && (p.ProviderId.GetValue() == "" || len(p.ProviderId.GetValue()) > 255) {
		return errors.New("resource provider id must have 1 to 255 bytes")
	}
	return nil
}

func validateValue(p *mesosv1.Resource) error {
	switch p.GetType() {
	case mesosv1.Value_SCALAR:
		if p.Scalar == nil || p.Ranges != nil || p.Set != nil {
			return errors.New("invalid scalar resource: it must have `scalar` and neither `ranges` nor `set`")
		}
	case mesosv1.Value_RANGES:
		if p.Ranges == nil || p.Scalar != nil || p.Set != nil {
			return errors.New("invalid ranges resource: it must have `ranges` and neither `scalar` nor `set`")
		}
	case mesosv1.Value_SET:
		if p.Set == nil || p.Scalar != nil || p.Ranges != nil {
			return errors.New("invalid set resource: it must have `set` and neither `scalar` nor `ranges`")
		}
		if len(p.Set.Item) > maxRanges {
			return fmt.Errorf("%d set items are more than the limit of %d", len(p.Set.Item), maxRanges)
		}
	default:
		return fmt.Errorf("unsupported resource type %s", p.GetType())
	}
	switch p.GetName() {
	case CPUs, GPUs, Mem, Disk:
		if p.GetType() != mesosv1.Value_SCALAR {
			return fmt.Errorf("resource '%s' must be a scalar", p.GetName())
		}
	case Ports:
		if p.GetType() != mesosv1.Value_RANGES {
			return errors.New("resource 'ports' must be ranges")
		}
		for _, r := range p.Ranges.GetRange() {
			if r.GetEnd() > 65535 {
				return fmt.Errorf("port range [%d-%d] goes beyond 65535", r.GetBegin(), r.GetEnd())
			}
		}
	}
	if p.GetName() == GPUs {
		if a, err := AmountOf(p.Scalar.GetValue()); err == nil && a%Unit != 0 {
			return errors.New("'gpus' must be a whole number")
		}
	}
	return nil
}

func validateReservations(p *mesosv1.Resource) error {
	if p.Role != nil && len(p.Reservations) > 0 && p.GetRole() != AnyRole {
		last := p.Reservations[len(p.Reservations)-1]
		if last.GetRole() != p.GetRole() {
			return errors.New("`role` and `reservations` must not both be set unless they name the same role")
		}
	}
	if len(p.Reservations) == 0 {
		if p.Role != nil {
			if err := ValidateRole(p.GetRole()); err != nil {
				return err
			}
		}
		if p.Reservation != nil {
			if p.Reservation.Type != nil || p.Reservation.Role != nil {
				return errors.New("`type` and `role` of `reservation` must not be set in the pre-refinement form")
			}
			if p.GetRole() == AnyRole {
				return errors.New("invalid reservation: role '*' cannot be dynamically reserved")
			}
		}
		return nil
	}
	if p.Reservation != nil && p.Role == nil {
		return errors.New("`reservation` must not be set together with `reservations`")
	}
	if len(p.Reservations) > maxReservations {
		return fmt.Errorf("%d reservations are more than the limit of %d", len(p.Reservations), maxReservations)
	}
	previous := ""
	for i, r := range p.Reservations {
		switch r.GetType() {
		case mesosv1.Resource_ReservationInfo_STATIC:
			if i > 0 {
				return errors.New("invalid refined reservation: a refinement must be DYNAMIC")
			}
		case mesosv1.Resource_ReservationInfo_DYNAMIC:
		default:
			return errors.New("invalid reservation: `type` must be STATIC or DYNAMIC")
		}
		role := r.GetRole()
		if r.Role == nil {
			return errors.New("invalid reservation: `role` must be set")
		}
		if err := ValidateRole(role); err != nil {
			return fmt.Errorf("invalid reservation: %w", err)
		}
		if role == AnyRole {
			return errors.New("invalid reservation: role '*' cannot be reserved")
		}
		if i > 0 && (role == previous || !IsRoleOrDescendant(role, previous)) {
			return fmt.Errorf("invalid refined reservation: role '%s' is not a refinement of '%s'", role, previous)
		}
		previous = role
	}
	return nil
}

func validateDisk(p *mesosv1.Resource) error {
	d := p.Disk
	if d == nil {
		return nil
	}
	if p.GetName() != Disk {
		return fmt.Errorf("DiskInfo should not be set for '%s' resource", p.GetName())
	}
	if s := d.Source; s != nil {
		switch s.GetType() {
		case mesosv1.Resource_DiskInfo_Source_PATH:
			if s.Mount != nil {
				return errors.New("disk source of type PATH must not have `mount`")
			}
		case mesosv1.Resource_DiskInfo_Source_MOUNT:
			if s.Path != nil {
				return errors.New("disk source of type MOUNT must not have `path`")
			}
		case mesosv1.Resource_DiskInfo_Source_BLOCK, mesosv1.Resource_DiskInfo_Source_RAW:
			if s.Path != nil || s.Mount != nil {
				return errors.New("disk source of type BLOCK or RAW must have neither `path` nor `mount`")
			}
		default:
			return fmt.Errorf("unsupported disk source type %s", s.GetType())
		}
	}
	if d.Persistence == nil {
		return nil
	}
	switch id := d.Persistence.GetId(); {
	case id == "" || id == "." || id == "..":
		return fmt.Errorf("persistence ID '%s' is invalid", id)
	case len(id) > 255 || strings.ContainsAny(id, "/\\") || strings.ContainsFunc(id, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return fmt.Errorf("persistence ID %q contains invalid characters or is too long", id)
	}
	if p.Revocable != nil {
		return errors.New("persistent volumes cannot be created from revocable resources")
	}
	if len(p.Reservations) == 0 && p.GetRole() == AnyRole {
		return errors.New("persistent volumes cannot be created from unreserved resources")
	}
	if t := d.GetSource().GetType(); d.Source != nil &&
		(t == mesosv1.Resource_DiskInfo_Source_BLOCK || t == mesosv1.Resource_DiskInfo_Source_RAW) {
		return fmt.Errorf("persistent volumes cannot be created from %s disks", t)
	}
	if v := d.Volume; v != nil {
		if v.HostPath != nil || v.Image != nil || v.Source != nil {
			return errors.New("a persistent volume's `volume` must have neither `host_path` nor `image` nor `source`")
		}
		if err := validateContainerPath(v.GetContainerPath()); err != nil {
			return err
		}
	}
	return nil
}

// validateContainerPath checks where a persistent volume appears: relative and inside the sandbox. Mesos accepts absolute
// container paths for containers with an image; the agent decides about those.
func validateContainerPath(p string) error {
	switch {
	case p == "":
		return errors.New("a persistent volume needs a `container_path`")
	case len(p) > 4096 || strings.ContainsRune(p, 0):
		return errors.New("container path is too long or contains NUL")
	}
	for component := range strings.SplitSeq(p, "/") {
		if component == ".." {
			return fmt.Errorf("container path %q must not contain '..'", path.Clean(p))
		}
	}
	return nil
}
