package main

import (
	"hash/crc32"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// The structs of the article: the mapped bytes are used as they are.
type header struct {
	writeOffset    int64
	eventCount     int64
	startTimestamp int64
}

type entry struct {
	timestamp int64
	size      uint32
	checksum  uint32
}

type region struct {
	file *os.File
	data []byte
}

func mapNew(j *job) *region {
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	check(err)
	check(file.Truncate(j.streamBytes()))
	data, err := syscall.Mmap(int(file.Fd()), 0, int(j.streamBytes()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err)
	*(*header)(unsafe.Pointer(&data[0])) = header{headerSize, 0, time.Now().UnixNano()}
	return &region{file, data}
}

func (r *region) touch() {
	for at := 4096; at < len(r.data); at += 4096 {
		r.data[at] = 0
	}
}

func (r *region) append(payload []byte) {
	head := (*header)(unsafe.Pointer(&r.data[0]))
	at := head.writeOffset
	*(*entry)(unsafe.Pointer(&r.data[at])) = entry{time.Now().UnixNano(), uint32(len(payload)), crc32.ChecksumIEEE(payload)}
	copy(r.data[at+entrySize:], payload)
	head.eventCount++
	head.writeOffset = at + entrySize + int64(len(payload))
}

func (r *region) close() {
	end := (*header)(unsafe.Pointer(&r.data[0])).writeOffset
	check(syscall.Munmap(r.data))
	check(r.file.Truncate(end))
	check(r.file.Close())
}

// runMapped writes a naively mapped stream. "prepared" touches every page before the clock starts, "cold" does not,
// and "whole" times creation and closing too.
func runMapped(j *job) time.Duration {
	start := time.Now()
	r := mapNew(j)
	if j.mode == "prepared" {
		r.touch()
	}
	if j.mode != "whole" {
		start = time.Now()
	}
	for i, k := 0, 0; i < j.events; i++ {
		r.append(j.payloads[k])
		if k++; k == len(j.payloads) {
			k = 0
		}
	}
	elapsed := time.Since(start)
	r.close()
	if j.mode == "whole" {
		return time.Since(start)
	}
	return elapsed
}
