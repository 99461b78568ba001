// Package projectquota limits and measures directories by the project quotas of their file system: XFS mounted with prjquota, or
// ext4 with the features quota and project and the same option. The native containerizer calls it, for the isolator disk/xfs.
//
// A directory bears its project's number, and everything that is made in it inherits it; the kernel keeps the account. So no list
// of assigned numbers exists that could be lost or leak: a number is free when its account has no file, be it that nobody ever had
// it or that all that bore it has been deleted.
package projectquota
