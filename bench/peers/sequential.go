package main

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const producers = 4

// sequential writes entries to any writer. Its header goes to the file once, at the end: another write per event would
// only make it slower than the method it stands for.
type sequential struct {
	file    *os.File
	out     io.Writer
	flush   func() error
	scratch []byte
	end     int64
	count   int64
	start   int64
}

func createSequential(j *job, buffered bool) *sequential {
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	check(err)
	s := &sequential{file, file, func() error { return nil }, make([]byte, entrySize+j.size), headerSize, 0, time.Now().UnixNano()}
	if buffered {
		writer := bufio.NewWriterSize(file, bufferSize)
		s.out, s.flush = writer, writer.Flush
	}
	_, err = s.out.Write(make([]byte, headerSize))
	check(err)
	return s
}

// append makes one write() of one event when nothing buffers behind it.
func (s *sequential) append(payload []byte) {
	entry := s.scratch[:entrySize+len(payload)]
	binary.LittleEndian.PutUint64(entry, uint64(time.Now().UnixNano()))
	binary.LittleEndian.PutUint32(entry[8:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(entry[12:], crc32.ChecksumIEEE(payload))
	copy(entry[entrySize:], payload)
	_, err := s.out.Write(entry)
	check(err)
	s.end += int64(len(entry))
	s.count++
}

func (s *sequential) close() {
	check(s.flush())
	head := make([]byte, headerSize)
	putHeader(head, s.end, s.count, s.start)
	_, err := s.file.WriteAt(head, 0)
	check(err)
	check(s.file.Close())
}

func timeSequential(j *job, buffered bool, write func(*sequential)) time.Duration {
	whole := strings.HasSuffix(j.mode, "-whole")
	start := time.Now()
	s := createSequential(j, buffered)
	if !whole {
		start = time.Now()
	}
	write(s)
	check(s.flush())
	elapsed := time.Since(start)
	s.close()
	if whole {
		return time.Since(start)
	}
	return elapsed
}

func writeAll(j *job) func(*sequential) {
	return func(s *sequential) {
		for i, k := 0, 0; i < j.events; i++ {
			s.append(j.payloads[k])
			if k++; k == len(j.payloads) {
				k = 0
			}
		}
	}
}

func runStandard(j *job) time.Duration { return timeSequential(j, false, writeAll(j)) }

func runBuffered(j *job) time.Duration { return timeSequential(j, true, writeAll(j)) }

// runChannel has several producers hand their payloads to one writer, which buffers.
func runChannel(j *job) time.Duration {
	return timeSequential(j, true, func(s *sequential) {
		queue := make(chan []byte, 1024)
		var running sync.WaitGroup
		for p := range producers {
			running.Add(1)
			go func() {
				defer running.Done()
				for i := p; i < j.events; i += producers {
					queue <- j.payloads[i%len(j.payloads)]
				}
			}()
		}
		go func() {
			running.Wait()
			close(queue)
		}()
		for payload := range queue {
			s.append(payload)
		}
	})
}
