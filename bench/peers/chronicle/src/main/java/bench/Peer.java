package bench;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Locale;
import java.util.stream.Stream;
import java.util.zip.CRC32;

import net.openhft.chronicle.bytes.Bytes;
import net.openhft.chronicle.core.time.SystemTimeProvider;
import net.openhft.chronicle.queue.ChronicleQueue;
import net.openhft.chronicle.queue.ExcerptAppender;
import net.openhft.chronicle.queue.ExcerptTailer;
import net.openhft.chronicle.wire.DocumentContext;

/**
 * Chronicle Queue (open source) doing the same work: every message carries a stamp, a CRC-32 and the payload.
 *
 * <pre>
 * --mode append   open queue, append alone is timed (warmed up by --warmup rounds in the same process)
 * --mode whole    create the queue, append, close
 * --mode tail     follow a queue that another process appends to, from stamp to arrival; prints "ready" on stderr first
 *                 and leaves the first --skip messages, on which the compiler warms up, out of the figures
 * --mode feed     append for a tailer: --gap nanoseconds between two messages, 0 for as fast as possible
 * </pre>
 */
public final class Peer {
    private static final int DISTINCT_MAX = 10_000;
    private static final long SOURCE_BYTES_MAX = 10_000L * 1024;

    private String mode = "append";
    private String dir = ".";
    private String name = "";
    private int events = 10_000;
    private int size = 1024;
    private int repeat = 1;
    private int warmup = 1;
    private long gap = 0;
    private int skip = 0;
    private Bytes<?>[] payloads;
    private byte[][] arrays;
    private final CRC32 crc = new CRC32();

    public static void main(String[] args) throws IOException {
        Peer peer = new Peer();
        peer.parse(args);
        if (!peer.mode.equals("tail")) peer.makePayloads();
        switch (peer.mode) {
            case "append", "whole" -> peer.runAppend(peer.mode.equals("whole"));
            case "tail" -> peer.runTail();
            case "feed" -> peer.runFeed();
            default -> throw new IllegalArgumentException("unknown --mode " + peer.mode);
        }
    }

    private void parse(String[] args) {
        for (int i = 0; i + 1 < args.length; i += 2) {
            String value = args[i + 1];
            switch (args[i]) {
                case "--mode" -> mode = value;
                case "--dir" -> dir = value;
                case "--name" -> name = value;
                case "--events" -> events = Integer.parseInt(value);
                case "--size" -> size = Integer.parseInt(value);
                case "--repeat" -> repeat = Integer.parseInt(value);
                case "--warmup" -> warmup = Integer.parseInt(value);
                case "--skip" -> skip = Integer.parseInt(value);
                case "--gap" -> gap = Long.parseLong(value);
                default -> throw new IllegalArgumentException("unknown argument " + args[i]);
            }
        }
        if (name.isEmpty()) name = "chronicle-" + mode + "-" + ProcessHandle.current().pid();
    }

    /** The payloads of every other contender: SplitMix64 from seed 0, little-endian words, cut into pieces. */
    private void makePayloads() {
        int distinct = (int) Math.max(1, Math.min(DISTINCT_MAX, SOURCE_BYTES_MAX / size));
        arrays = new byte[distinct][size];
        payloads = new Bytes<?>[distinct];
        long word = 0;
        for (long at = 0; at < (long) distinct * size; at++) {
            if ((at & 7) == 0) word = splitMix(at / 8 + 1);
            arrays[(int) (at / size)][(int) (at % size)] = (byte) (word >>> (8 * (at & 7)));
        }
        for (int i = 0; i < distinct; i++) {
            payloads[i] = Bytes.allocateDirect(size);
            payloads[i].write(arrays[i]);
        }
    }

    private static long splitMix(long step) {
        long z = step * 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    private static ChronicleQueue open(File where) {
        return ChronicleQueue.singleBuilder(where).timeProvider(SystemTimeProvider.INSTANCE).build();
    }

    private void put(ExcerptAppender appender, int k) {
        long stamp = SystemTimeProvider.INSTANCE.currentTimeNanos();
        crc.reset();
        crc.update(arrays[k]);
        try (DocumentContext document = appender.writingDocument()) {
            Bytes<?> bytes = document.wire().bytes();
            bytes.writeLong(stamp);
            bytes.writeInt(size);
            bytes.writeInt((int) crc.getValue());
            bytes.write(payloads[k], 0L, size);
        }
    }

    private void runAppend(boolean whole) throws IOException {
        double[] nsPerEvent = new double[repeat];
        for (int round = -warmup; round < repeat; round++) {
            File where = new File(dir, name + "-" + (round + warmup));
            long start = System.nanoTime();
            long end;
            try (ChronicleQueue queue = open(where); ExcerptAppender appender = queue.createAppender()) {
                if (!whole) start = System.nanoTime();
                for (int i = 0, k = 0; i < events; i++) {
                    put(appender, k);
                    if (++k == payloads.length) k = 0;
                }
                end = System.nanoTime();
            }
            if (whole) end = System.nanoTime();
            if (round >= 0) nsPerEvent[round] = (double) (end - start) / events;
            delete(where.toPath());
        }
        report(",\"ns_per_event\":" + Arrays.toString(nsPerEvent));
    }

    private void runFeed() {
        try (ChronicleQueue queue = open(new File(dir, name)); ExcerptAppender appender = queue.createAppender()) {
            long due = System.nanoTime();
            long start = due;
            for (int i = 0, k = 0; i < events; i++) {
                due += gap;
                while (gap > 0 && System.nanoTime() < due) Thread.onSpinWait();
                put(appender, k);
                if (++k == payloads.length) k = 0;
            }
            report(",\"ns_per_event\":[" + (double) (System.nanoTime() - start) / events + "]");
        }
    }

    /** Spins, as Chronicle's tailers are meant to; every payload is read and its CRC is checked. */
    private void runTail() throws IOException {
        File where = new File(dir, name);
        long[] latencies = new long[events - skip];
        byte[] data = new byte[size];
        long bad = 0;
        long first = 0;
        long last;
        try (ChronicleQueue queue = open(where); ExcerptTailer tailer = queue.createTailer()) {
            System.err.println("ready");
            for (int i = 0; i < events; ) {
                try (DocumentContext document = tailer.readingDocument()) {
                    if (!document.isPresent()) continue;
                    Bytes<?> bytes = document.wire().bytes();
                    long stamp = bytes.readLong();
                    int length = bytes.readInt();
                    int expected = bytes.readInt();
                    bytes.read(data, 0, length);
                    crc.reset();
                    crc.update(data, 0, length);
                    if ((int) crc.getValue() != expected) bad++;
                    long latency = SystemTimeProvider.INSTANCE.currentTimeNanos() - stamp;
                    if (i >= skip) latencies[i - skip] = latency;
                }
                if (i++ == skip) first = System.nanoTime();
            }
            last = System.nanoTime();
        }
        if (bad > 0) throw new IllegalStateException(bad + " messages with a wrong CRC");
        delete(where.toPath());
        Arrays.sort(latencies);
        report(String.format(Locale.ROOT, ",\"ns_per_event\":[%.3f],\"latency_ns\":{\"p50\":%d,\"p90\":%d,\"p99\":%d,"
                + "\"p99.9\":%d,\"p99.99\":%d,\"max\":%d}", (double) (last - first) / Math.max(1, events - skip - 1), at(latencies, 0.5),
            at(latencies, 0.9), at(latencies, 0.99), at(latencies, 0.999), at(latencies, 0.9999),
            at(latencies, 1)));
    }

    private static long at(long[] sorted, double share) {
        return sorted[(int) ((sorted.length - 1) * share)];
    }

    private void report(String rest) {
        // The manifest has no version; the name of the archive, as resolved by Maven, does.
        String jar = ChronicleQueue.class.getProtectionDomain().getCodeSource().getLocation().getPath();
        String version = jar.replaceAll(".*chronicle-queue-(.*)\\.jar", "$1");
        System.out.printf(Locale.ROOT,
            "{\"peer\":\"chronicle-queue\",\"version\":\"%s\",\"java\":\"%s\",\"mode\":\"%s\",\"crc\":\"java.util.zip\","
                + "\"events\":%d,\"size\":%d%s}%n",
            version, System.getProperty("java.version"), mode, events, size, rest);
    }

    private static void delete(Path root) throws IOException {
        try (Stream<Path> paths = Files.walk(root)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) Files.delete(path);
        }
    }
}
