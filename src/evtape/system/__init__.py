"""What differs between operating systems: descriptors, files, sidecar files, locks, signals."""
