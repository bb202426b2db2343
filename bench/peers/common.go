// The Go contenders: one program, one file per way of writing. Built by naming the files, so it needs no module.
package main

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

const (
	headerSize     = 24
	entrySize      = 16
	distinctMax    = 10_000
	sourceBytesMax = 10_000 * 1024
	bufferSize     = 1 << 20
)

// job is what every way of writing is told, and run is one way of writing: it returns the time that counts.
type job struct {
	path     string
	mode     string
	events   int
	size     int
	payloads [][]byte
}

type report struct {
	Peer       string    `json:"peer"`
	Mode       string    `json:"mode"`
	CRC        string    `json:"crc"`
	Version    string    `json:"version"`
	Events     int       `json:"events"`
	Size       int       `json:"size"`
	NsPerEvent []float64 `json:"ns_per_event"`
}

func (j *job) streamBytes() int64 {
	return headerSize + int64(j.events)*int64(entrySize+j.size)
}

// makePayloads cuts the payloads of every other contender out of SplitMix64 from seed 0, little-endian words.
func makePayloads(size int) [][]byte {
	distinct := min(distinctMax, max(1, sourceBytesMax/size))
	block := make([]byte, (distinct*size+7)/8*8)
	for i := 0; i < len(block); i += 8 {
		z := uint64(i/8+1) * 0x9E3779B97F4A7C15
		z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
		z = (z ^ (z >> 27)) * 0x94D049BB133111EB
		binary.LittleEndian.PutUint64(block[i:], z^(z>>31))
	}
	payloads := make([][]byte, distinct)
	for i := range payloads {
		payloads[i] = block[i*size : (i+1)*size]
	}
	return payloads
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func putHeader(to []byte, end int64, count int64, start int64) {
	binary.LittleEndian.PutUint64(to, uint64(end))
	binary.LittleEndian.PutUint64(to[8:], uint64(count))
	binary.LittleEndian.PutUint64(to[16:], uint64(start))
}

func main() {
	mode := flag.String("mode", "prepared", "prepared, cold, whole; standard, buffered, channel (each -whole too)")
	events := flag.Int("events", 10_000, "events in a repetition")
	size := flag.Int("size", 1024, "bytes of a payload")
	repeat := flag.Int("repeat", 1, "timed repetitions")
	warmup := flag.Int("warmup", 1, "repetitions before the timed ones")
	dir := flag.String("dir", ".", "folder for the stream")
	keep := flag.Bool("keep", false, "leave the last stream")
	flag.Parse()

	runs := map[string]func(*job) time.Duration{
		"prepared": runMapped, "cold": runMapped, "whole": runMapped,
		"standard": runStandard, "standard-whole": runStandard,
		"buffered": runBuffered, "buffered-whole": runBuffered,
		"channel": runChannel, "channel-whole": runChannel,
	}
	run, known := runs[*mode]
	if !known || *events < 1 || *size < 1 || *repeat < 1 {
		fmt.Fprintln(os.Stderr, "unknown --mode, or a number below 1")
		os.Exit(2)
	}
	path := filepath.Join(*dir, fmt.Sprintf("go-%s-%d.tape", *mode, os.Getpid()))
	j := &job{path, *mode, *events, *size, makePayloads(*size)}
	peer := "go-mapped"
	if *mode != "prepared" && *mode != "cold" && *mode != "whole" {
		peer = "go-sequential"
	}
	out := report{peer, *mode, "hash/crc32", runtime.Version(), *events, *size, nil}
	for round := -*warmup; round < *repeat; round++ {
		elapsed := run(j)
		if round >= 0 {
			out.NsPerEvent = append(out.NsPerEvent, float64(elapsed.Nanoseconds())/float64(*events))
		}
		if !*keep || round < *repeat-1 {
			check(os.Remove(path))
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(out))
}
