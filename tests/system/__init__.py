"""Files, sidecar files, locks."""
