"""What an upload is and may become: values and decisions, without clock, I/O or await."""
