// Package scopeclients names Weave Scope v1.13.2, whose unmodified program the tests of monitoring build and run as a probe
// (test/monitoring/scopeprogram_test.go): versions and checksums of all that it is made of.
package scopeclients
