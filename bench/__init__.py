"""Benchmarks: what tusgate costs beside direct uploads and beside another tus server, in one run."""
