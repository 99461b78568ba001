// Package fetcher brings what a command names as URIs into its sandbox: from http, https and local files, through a cache
// when asked to, unpacked when it is an archive. The native containerizer calls it before a container starts.
//
// Invariants: nothing is written outside the sandbox, whatever an archive or a name holds (os.Root); nothing grows
// without bound (size, entries, ratio of unpacking, time without progress); a local file is read with the task user's
// rights; what is fetched belongs to the task user; the cache never exceeds its size for longer than a download.
// Links in archives are made as they are and never followed.
package fetcher
