package bench;

import java.io.File;
import java.util.Arrays;
import java.util.Locale;
import java.util.zip.CRC32;

import io.aeron.Aeron;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.logbuffer.FragmentHandler;
import io.aeron.logbuffer.Header;
import org.agrona.DirectBuffer;
import org.agrona.concurrent.SystemEpochNanoClock;
import org.agrona.concurrent.UnsafeBuffer;

/**
 * Aeron over IPC doing the same work: every message carries a stamp, a CRC-32 and the payload.
 *
 * <pre>
 * --mode tail     start a media driver and subscribe, from stamp to arrival; prints "ready" on stderr first and leaves
 *                 the first --skip messages, on which the compiler warms up, out of the figures
 * --mode feed     publish for a tailer: --gap nanoseconds between two messages, 0 for as fast as possible
 * </pre>
 *
 * The driver runs in the tailer's process, with one thread that sleeps while it has nothing to do: messages between
 * processes do not pass through it. The publication waits while the subscriber is a term buffer behind, so no message is
 * lost.
 */
public final class Peer {
    private static final int DISTINCT_MAX = 10_000;
    private static final long SOURCE_BYTES_MAX = 10_000L * 1024;
    private static final int HEADER = 16; // stamp, size, CRC
    private static final int STREAM = 1001;
    private static final String CHANNEL = "aeron:ipc";

    private String mode = "tail";
    private String dir = ".";
    private String name = "aeron";
    private int events = 10_000;
    private int size = 1024;
    private long gap = 0;
    private int skip = 0;
    private final CRC32 crc = new CRC32();
    private final SystemEpochNanoClock clock = new SystemEpochNanoClock();

    public static void main(String[] args) {
        Peer peer = new Peer();
        peer.parse(args);
        switch (peer.mode) {
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
                case "--skip" -> skip = Integer.parseInt(value);
                case "--gap" -> gap = Long.parseLong(value);
                case "--repeat", "--warmup" -> { } // each value is a pair of new processes
                default -> throw new IllegalArgumentException("unknown argument " + args[i]);
            }
        }
    }

    private String aeronDirectory() {
        return new File(dir, name).getAbsolutePath();
    }

    /** The payloads of every other contender: SplitMix64 from seed 0, little-endian words, cut into pieces. */
    private byte[][] payloads() {
        int distinct = (int) Math.max(1, Math.min(DISTINCT_MAX, SOURCE_BYTES_MAX / size));
        byte[][] arrays = new byte[distinct][size];
        long word = 0;
        for (long at = 0; at < (long) distinct * size; at++) {
            if ((at & 7) == 0) word = splitMix(at / 8 + 1);
            arrays[(int) (at / size)][(int) (at % size)] = (byte) (word >>> (8 * (at & 7)));
        }
        return arrays;
    }

    private static long splitMix(long step) {
        long z = step * 0x9E3779B97F4A7C15L;
        z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
        z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
        return z ^ (z >>> 31);
    }

    private void runFeed() {
        byte[][] arrays = payloads();
        UnsafeBuffer message = new UnsafeBuffer(new byte[HEADER + size]);
        Aeron.Context context = new Aeron.Context().aeronDirectoryName(aeronDirectory());
        try (Aeron aeron = Aeron.connect(context); Publication publication = aeron.addPublication(CHANNEL, STREAM)) {
            while (!publication.isConnected()) Thread.onSpinWait();
            long due = System.nanoTime();
            long start = due;
            for (int i = 0, k = 0; i < events; i++) {
                due += gap;
                while (gap > 0 && System.nanoTime() < due) Thread.onSpinWait();
                put(publication, message, arrays[k]);
                if (++k == arrays.length) k = 0;
            }
            long elapsed = System.nanoTime() - start;
            // What the subscriber has not read ends with the publication: wait until it has gone.
            while (publication.isConnected()) Thread.onSpinWait();
            report(",\"ns_per_event\":[" + (double) elapsed / events + "]");
        }
    }

    private void put(Publication publication, UnsafeBuffer message, byte[] payload) {
        message.putLong(0, clock.nanoTime());
        crc.reset();
        crc.update(payload, 0, size);
        message.putInt(8, size);
        message.putInt(12, (int) crc.getValue());
        message.putBytes(HEADER, payload, 0, size);
        for (long position; (position = publication.offer(message, 0, HEADER + size)) < 0; Thread.onSpinWait()) {
            if (position == Publication.CLOSED || position == Publication.MAX_POSITION_EXCEEDED)
                throw new IllegalStateException("offer returned " + position);
        }
    }

    /** Receives messages, checks them and takes the times. */
    private final class Receiver implements FragmentHandler {
        private final long[] latencies = new long[events - skip];
        private final byte[] data = new byte[size];
        private int received = 0;
        private long first = 0;
        private long bad = 0;

        @Override
        public void onFragment(DirectBuffer buffer, int offset, int length, Header header) {
            long stamp = buffer.getLong(offset);
            int bytes = buffer.getInt(offset + 8);
            int expected = buffer.getInt(offset + 12);
            buffer.getBytes(offset + HEADER, data, 0, bytes);
            crc.reset();
            crc.update(data, 0, bytes);
            if ((int) crc.getValue() != expected) bad++;
            long latency = clock.nanoTime() - stamp;
            if (received >= skip) latencies[received - skip] = latency;
            if (received++ == skip) first = System.nanoTime();
        }
    }

    private void runTail() {
        MediaDriver.Context driver = new MediaDriver.Context()
            .aeronDirectoryName(aeronDirectory())
            .threadingMode(ThreadingMode.SHARED)
            .dirDeleteOnStart(true)
            .dirDeleteOnShutdown(true);
        Receiver receiver = new Receiver();
        long last;
        try (MediaDriver started = MediaDriver.launchEmbedded(driver);
            Aeron aeron = Aeron.connect(new Aeron.Context().aeronDirectoryName(started.aeronDirectoryName()))) {
            try (Subscription subscription = aeron.addSubscription(CHANNEL, STREAM)) {
                System.err.println("ready");
                while (receiver.received < events) {
                    if (subscription.poll(receiver, 10) == 0) Thread.onSpinWait();
                }
                last = System.nanoTime();
            }
            if (receiver.bad > 0) throw new IllegalStateException(receiver.bad + " messages with a wrong CRC");
            // The feeder sees that its subscriber has gone, and closes, while the driver runs.
            try {
                Thread.sleep(500);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
        long[] sorted = receiver.latencies;
        Arrays.sort(sorted);
        report(String.format(Locale.ROOT, ",\"ns_per_event\":[%.3f],\"latency_ns\":{\"p50\":%d,\"p90\":%d,\"p99\":%d,"
                + "\"p99.9\":%d,\"p99.99\":%d,\"max\":%d}", (double) (last - receiver.first) / Math.max(1, events - skip - 1),
            at(sorted, 0.5), at(sorted, 0.9), at(sorted, 0.99), at(sorted, 0.999), at(sorted, 0.9999), at(sorted, 1)));
    }

    private static long at(long[] sorted, double share) {
        return sorted[(int) ((sorted.length - 1) * share)];
    }

    private void report(String rest) {
        // The name of the archive, as resolved by Maven, has the version.
        String jar = Aeron.class.getProtectionDomain().getCodeSource().getLocation().getPath();
        String version = jar.replaceAll(".*aeron-all-(.*)\\.jar", "$1");
        System.out.printf(Locale.ROOT,
            "{\"peer\":\"aeron\",\"version\":\"%s\",\"java\":\"%s\",\"mode\":\"%s\",\"crc\":\"java.util.zip\","
                + "\"events\":%d,\"size\":%d%s}%n",
            version, System.getProperty("java.version"), mode, events, size, rest);
    }
}
