// Package zkfile reads and writes ZooKeeper's files: snapshot.<zxid> and log.<zxid> in version-2, and the epoch files beside
// them. Servers start from what it writes; it reads what servers write, 3.4 through 3.9.
package zkfile
