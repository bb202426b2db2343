//! The same work in Zig: a naively mapped stream, as the article's own program writes it. Modes:
//!
//!   prepared  every page is touched before the clock starts
//!   cold      ftruncate and mmap before the clock, the append loop alone
//!   whole     create, append, cut, close
//!
//! System calls go through libc by declarations of our own, because the standard library renames its wrappers from
//! version to version. The CRC is libdeflate's where the builder found it, otherwise the standard library's.
const std = @import("std");
const options = @import("options");

const header_size = 24;
const entry_size = 16;
const distinct_max = 10_000;
const source_bytes_max = 10_000 * 1024;
const page_size = 4096;

extern "c" fn open(path: [*:0]const u8, flags: c_int, mode: c_uint) c_int;
extern "c" fn close(fd: c_int) c_int;
extern "c" fn unlink(path: [*:0]const u8) c_int;
extern "c" fn getpid() c_int;
extern "c" fn malloc(size: usize) ?[*]u8;
extern "c" fn ftruncate(fd: c_int, size: i64) c_int;
extern "c" fn mmap(address: ?*anyopaque, size: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64) usize;
extern "c" fn munmap(address: *anyopaque, size: usize) c_int;
extern "c" fn clock_gettime(clock: c_int, time: *[2]i64) c_int;
extern "c" fn printf(format: [*:0]const u8, ...) c_int;
extern "c" fn snprintf(to: [*]u8, size: usize, format: [*:0]const u8, ...) c_int;
extern "c" fn atoll(text: [*:0]const u8) c_longlong;
extern "c" fn exit(code: c_int) noreturn;
extern "c" fn libdeflate_crc32(crc: u32, data: [*]const u8, size: usize) u32;

const open_new = 0o2 | 0o100 | 0o1000; // O_RDWR | O_CREAT | O_TRUNC on Linux
const clock_realtime = 0;
const clock_monotonic = 1;

const Header = extern struct { write_offset: i64, event_count: i64, start_timestamp: i64 };
const Entry = extern struct { timestamp: i64 align(1), size: u32 align(1), checksum: u32 align(1) };

const Args = struct {
    mode: [*:0]const u8 = "prepared",
    dir: [*:0]const u8 = ".",
    events: usize = 10_000,
    size: usize = 1024,
    repeat: usize = 1,
    warmup: usize = 1,
    keep: bool = false,
};

const Region = struct { fd: c_int, base: [*]u8, size: usize };

fn die(message: [*:0]const u8) noreturn {
    std.debug.print("{s}\n", .{message});
    exit(1);
}

fn clockNs(clock: c_int) i64 {
    var time: [2]i64 = undefined;
    _ = clock_gettime(clock, &time);
    return time[0] * 1_000_000_000 + time[1];
}

fn same(left: [*:0]const u8, right: []const u8) bool {
    return std.mem.eql(u8, std.mem.span(left), right);
}

fn parseArgs(argc: usize, argv: [*][*:0]u8) Args {
    var args: Args = .{};
    var i: usize = 1;
    while (i < argc) : (i += 2) {
        if (same(argv[i], "--keep")) {
            args.keep = true;
            i -= 1;
            continue;
        }
        if (i + 1 >= argc) die("the last argument needs a value");
        const number: usize = @intCast(@max(0, atoll(argv[i + 1])));
        if (same(argv[i], "--mode")) {
            args.mode = argv[i + 1];
        } else if (same(argv[i], "--dir")) {
            args.dir = argv[i + 1];
        } else if (same(argv[i], "--events")) {
            args.events = number;
        } else if (same(argv[i], "--size")) {
            args.size = number;
        } else if (same(argv[i], "--repeat")) {
            args.repeat = number;
        } else if (same(argv[i], "--warmup")) {
            args.warmup = number;
        } else die("unknown argument");
    }
    if (args.events == 0 or args.size == 0 or args.repeat == 0) die("--events, --size and --repeat are at least 1");
    return args;
}

/// The payloads of every other contender: SplitMix64 from seed 0, little-endian words, cut into pieces.
fn makeBlock(bytes: usize) []u8 {
    const block = (malloc(bytes + 8) orelse die("malloc"))[0 .. bytes + 8];
    var step: u64 = 0;
    var at: usize = 0;
    while (at < bytes) : (at += 8) {
        step += 1;
        var z = step *% 0x9E3779B97F4A7C15;
        z = (z ^ (z >> 30)) *% 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) *% 0x94D049BB133111EB;
        std.mem.writeInt(u64, block[at..][0..8], z ^ (z >> 31), .little);
    }
    return block[0..bytes];
}

inline fn checksum(data: []const u8) u32 {
    if (options.libdeflate) return libdeflate_crc32(0, data.ptr, data.len);
    return std.hash.Crc32.hash(data);
}

fn mapNew(path: [*:0]const u8, size: usize) Region {
    const fd = open(path, open_new, 0o644);
    if (fd < 0) die("open failed");
    if (ftruncate(fd, @intCast(size)) != 0) die("ftruncate failed");
    const address = mmap(null, size, 1 | 2, 1, fd, 0); // PROT_READ | PROT_WRITE, MAP_SHARED
    if (address == std.math.maxInt(usize)) die("mmap failed");
    const base: [*]u8 = @ptrFromInt(address);
    const header: *Header = @ptrCast(@alignCast(base));
    header.* = .{ .write_offset = header_size, .event_count = 0, .start_timestamp = clockNs(clock_realtime) };
    return .{ .fd = fd, .base = base, .size = size };
}

fn touch(region: Region) void {
    var at: usize = page_size;
    while (at < region.size) : (at += page_size) @as(*volatile u8, @ptrCast(region.base + at)).* = 0;
}

fn appendAll(region: Region, block: []const u8, args: Args) void {
    const header: *volatile Header = @ptrCast(@alignCast(region.base));
    const distinct = block.len / args.size;
    var at: usize = header_size;
    var k: usize = 0;
    for (0..args.events) |_| {
        const data = block[k * args.size ..][0..args.size];
        const entry: *Entry = @ptrCast(region.base + at);
        entry.timestamp = clockNs(clock_realtime);
        entry.size = @intCast(data.len);
        entry.checksum = checksum(data);
        @memcpy(region.base[at + entry_size ..][0..data.len], data);
        at += entry_size + data.len;
        header.event_count += 1;
        header.write_offset = @intCast(at);
        k = if (k + 1 == distinct) 0 else k + 1;
    }
}

fn closeRegion(region: Region) void {
    const header: *Header = @ptrCast(@alignCast(region.base));
    const end = header.write_offset;
    if (munmap(region.base, region.size) != 0) die("munmap failed");
    if (ftruncate(region.fd, end) != 0) die("ftruncate failed");
    if (close(region.fd) != 0) die("close failed");
}

fn runOnce(path: [*:0]const u8, block: []const u8, args: Args) f64 {
    const whole = same(args.mode, "whole");
    const before = clockNs(clock_monotonic);
    const region = mapNew(path, header_size + args.events * (entry_size + args.size));
    if (same(args.mode, "prepared")) touch(region);
    const start = if (whole) before else clockNs(clock_monotonic);
    appendAll(region, block, args);
    const appended = clockNs(clock_monotonic);
    closeRegion(region);
    const end = if (whole) clockNs(clock_monotonic) else appended;
    return @as(f64, @floatFromInt(end - start)) / @as(f64, @floatFromInt(args.events));
}

pub export fn main(argc: c_int, argv: [*][*:0]u8) c_int {
    const args = parseArgs(@intCast(argc), argv);
    if (!same(args.mode, "prepared") and !same(args.mode, "cold") and !same(args.mode, "whole")) die("unknown --mode");
    const distinct = @max(1, @min(distinct_max, source_bytes_max / args.size));
    const block = makeBlock(distinct * args.size);
    var path: [4096:0]u8 = undefined;
    _ = snprintf(&path, path.len, "%s/zig-mapped-%s-%d.tape", args.dir, args.mode, getpid());

    const crc: [*:0]const u8 = if (options.libdeflate) "libdeflate" else "std.hash.Crc32";
    _ = printf("{\"peer\":\"zig-mapped\",\"mode\":\"%s\",\"crc\":\"%s\",\"events\":%zu,\"size\":%zu,\"ns_per_event\":[", args.mode, crc, args.events, args.size);
    for (0..args.warmup + args.repeat) |round| {
        const ns = runOnce(&path, block, args);
        const last = round + 1 == args.warmup + args.repeat;
        const comma: [*:0]const u8 = if (last) "" else ",";
        if (round >= args.warmup) _ = printf("%.3f%s", ns, comma);
        if (!(last and args.keep)) _ = unlink(&path);
    }
    _ = printf("]}\n");
    return 0;
}
