"""The shipped deployment files, on plain processes instead of containers."""
