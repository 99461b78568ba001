package bolt

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/orchestrator/orchestrator/internal/store"
)

// commitLoop is the only writer of the file. It ends when the queue is closed and empty.
func (s *Store) commitLoop() {
	defer close(s.done)
	batch := make([]request, 0, 64)
	for first := range s.queue {
		batch = append(batch[:0], first)
		size := first.size()
	fill:
		for len(batch) < batchTxns && size < batchBytes {
			select {
			case r, ok := <-s.queue:
				if !ok {
					break fill // the range ends the loop after this batch
				}
				batch = append(batch, r)
				size += r.size()
			default:
				break fill
			}
		}
		s.commit(batch)
		clear(batch)
	}
}

func (r request) size() int {
	n := 0
	for _, p := range r.txn.Puts {
		n += len(p.Key) + len(p.Value)
	}
	return n
}

// commit carries out the batch in one transaction of the file and answers every request.
func (s *Store) commit(batch []request) {
	results := make([]error, len(batch))
	epochs := make([]uint64, len(batch))
	epoch := s.epoch
	err := guard(s.path, func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			for i, r := range batch {
				if r.claimed != nil {
					epochs[i], results[i] = claim(&epoch, r.epoch)
					continue
				}
				if r.epoch != epoch {
					results[i] = fmt.Errorf("%w: epoch %d, this writer has %d", store.ErrFenced, epoch, r.epoch)
					continue
				}
				refused, err := s.apply(tx.Bucket(kvBucket), r.txn)
				if err != nil {
					return err
				}
				results[i] = refused
			}
			if epoch == s.epoch {
				return nil
			}
			return tx.Bucket(metaBucket).Put(epochKey, binary.BigEndian.AppendUint64(nil, epoch))
		})
	})
	if err == nil {
		s.epoch = epoch
	} else {
		err = fmt.Errorf("writing registry %s: %w", s.path, err)
	}
	for i, r := range batch {
		result := results[i]
		if err != nil {
			result = err // nothing of the batch was kept
		}
		if r.claimed != nil {
			r.claimed(epochs[i], result)
		} else {
			r.finish(result)
		}
	}
}

func claim(current *uint64, wanted uint64) (uint64, error) {
	if wanted == 0 {
		wanted = *current + 1
	}
	if wanted <= *current {
		return 0, fmt.Errorf("%w: epoch %d was claimed, %d is not later", store.ErrFenced, *current, wanted)
	}
	*current = wanted
	return wanted, nil
}

// apply carries out one transaction. refused says that a check does not hold and nothing was changed; err ends the batch.
func (s *Store) apply(b *bbolt.Bucket, txn store.Txn) (refused, err error) {
	for _, c := range txn.Checks {
		v, err := s.version(b, c.Key)
		if err != nil {
			return nil, err
		}
		if v != c.Version {
			return fmt.Errorf("%w: key %s has version %d, not %d", store.ErrConflict, c.Key, v, c.Version), nil
		}
	}
	for _, p := range txn.Puts {
		v, err := s.version(b, p.Key)
		if err != nil {
			return nil, err
		}
		if err := b.Put([]byte(p.Key), encode(p.Key, v+1, p.Value)); err != nil {
			return nil, err
		}
	}
	for _, k := range txn.Deletes {
		if err := b.Delete([]byte(k)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Store) version(b *bbolt.Bucket, key string) (uint64, error) {
	raw := b.Get([]byte(key))
	if raw == nil {
		return 0, nil
	}
	e, err := s.decode(key, raw)
	return e.Version, err
}
