"""The two cores, native and pure, and the choice between them. A core moves bytes; it decides nothing."""
