package undo

import (
	"context"
	"fmt"
	"sync"

	"kata/host/journal"
)

// Memory is a journal that is not written down, for tools and tests whose machines
// die with the process that started them.
type Memory struct {
	mu      sync.Mutex
	last    journal.Seq
	entries map[journal.Seq]journal.Entry
}

// Add implements [Journal].
func (m *Memory) Add(e journal.Entry, _ journal.Mark) (journal.Seq, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = make(map[journal.Seq]journal.Entry)
	}
	m.last++
	m.entries[m.last] = e
	return m.last, nil
}

// Amend implements [Journal].
func (m *Memory) Amend(seq journal.Seq, e journal.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.entries[seq]; !ok {
		return fmt.Errorf("amend %s: there is no entry %d", e, seq)
	}
	m.entries[seq] = e
	return nil
}

// Release implements [Journal].
func (m *Memory) Release(ctx context.Context, seq journal.Seq) error {
	m.mu.Lock()
	e, ok := m.entries[seq]
	m.mu.Unlock()
	if !ok {
		return nil
	}
	if err := journal.Release(ctx, e); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, seq)
	return nil
}
