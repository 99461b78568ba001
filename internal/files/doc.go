// Package files serves parts of the file system under virtual paths: the sandboxes and logs that /files/browse, /files/read,
// /files/download, /files/debug and the v1 calls LIST_FILES and READ_FILE show. Master and agent each have one.
//
//	fs := files.New()
//	fs.Attach("/var/lib/mesos/…/runs/1", "/frameworks/F/executors/E/runs/latest", allow)
//	mux.Handle("/files/", fs.Handler("/files"))            // behind wire.Authenticated
//	infos, err := fs.List(principal, path)                 // LIST_FILES
//	chunk, err := fs.Read(principal, path, offset, length) // READ_FILE
//
// A virtual path is answered by the longest attached path that it is, or lies below.
//
// Invariants:
//   - Nothing outside of the attached file or directory is ever opened, whatever links a task puts into its sandbox and
//     whenever it changes them: files are opened beneath an os.Root. A link that leaves it, and an absolute one, is refused.
//   - Only regular files are read; a FIFO, socket or device is refused without being waited for.
//   - What is handed to a browser is marked as an attachment and not to be sniffed: tasks write it.
//   - An answer is bounded: 64 KiB for a read, MaxEntries for a listing. Downloads are streamed.
package files
