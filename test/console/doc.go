// Package console tests the web console as its users meet it: the committed build is what web/ gives, its units hold, and a real
// Chromium goes through it against a real cluster, simulated hosts and a monitor that dies.
package console
