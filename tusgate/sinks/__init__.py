"""Who is told of events, and how: webhooks, and lines in a file or on stdout. Each is the port `Sink`."""
