"""HTTP: requests become calls of the service, its answers and errors become responses. aiohttp's server lives here."""
