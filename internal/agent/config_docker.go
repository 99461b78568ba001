package agent

import "time"

// DockerEngine are the settings of the docker containerizer.
type DockerEngine struct {
	Docker           string        `flag:"docker" default:"docker" ignored:"the Engine is spoken to directly" help:"Path of the docker program."`
	DockerSocket     string        `flag:"docker_socket" default:"/var/run/docker.sock" help:"Socket of the Docker Engine."`
	DockerRemove     time.Duration `flag:"docker_remove_delay" default:"6hrs" help:"How long an ended container stays in Docker to be looked at."`
	DockerStop       time.Duration `flag:"docker_stop_timeout" default:"0ns" help:"Time between SIGTERM and SIGKILL for a Docker container where no kill policy says; 0: 3secs."`
	DockerOrphans    bool          `flag:"docker_kill_orphans" default:"true" help:"Kill Docker containers of this agent that its checkpoint does not speak of."`
	DockerMesosImage string        `flag:"docker_mesos_image" ignored:"what stands beside a container outlives the agent without an image" help:"Image to run Mesos' own executor in."`
	DockerVolumes    string        `flag:"docker_volume_checkpoint_dir" ignored:"Docker keeps its volumes itself" help:"Where dvdcli's mounts are written down."`
}
