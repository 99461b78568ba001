// Package checkpoint keeps on disk what the agent has promised, so that kill -9, a full disk or a power cut loses none of
// it. Package agent's committer is its only writer; recovery reads it once, before anything else runs.
//
// The files lie where a Mesos agent has them (Layout), but making each of them durable by itself would cost one fsync a
// file. So a batch of operations first goes, checksummed, to the end of a journal (meta/journal.N) with a single fsync:
// from then on the batch is promised. The files follow within a second, in the background: what happened to a file
// meanwhile is put together first, so that a short task costs two files and not eight writes. When a journal has grown
// enough, a new one is begun, and once the file system says that everything in the files is durable the old one is
// deleted. Open replays the journals that are left: every operation gives the same result however often it is applied.
//
// Invariants:
//   - Commit returns nil only when the batch survives a crash of the machine.
//   - A batch is either replayed whole or not at all; a torn tail of a journal is what nobody was promised. A batch that
//     can't be read though others follow it was promised: that is damage, which stops the agent unless it is told to go on.
//   - A file is never seen half replaced by a reader of the same boot (temp and rename), and after a crash the journal
//     repairs what the crash tore.
package checkpoint
